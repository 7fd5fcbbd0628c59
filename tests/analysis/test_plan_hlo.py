"""Tests of reading compiled programs, on excerpts of what libtpu 0.0.42.1 prints."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from aa_flax.analysis.hlo import Program, arrays, shape_bytes
from aa_flax.analysis.hlo_traffic import collectives, kernels
from aa_flax.analysis.hlo_work import work
from aa_flax.models import create_model


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ("f32[]", 4),
        ("f32[5,7]", 140),
        ("pred[11]", 11),
        ("u8[3,5]{1,0}", 15),
        ("bf16[64,20]{1,0:T(8,128)(2,1)}", 64 * 128 * 2),
        ("bf16[64,20]{0,1:T(8,128)(2,1)}", 24 * 128 * 2),  # 64 is the minor dimension here
        ("bf16[64,20]{1,0:T(8,128)(2,1)S(1)}", 64 * 128 * 2),
        ("f32[3,3,5,130]{3,2,1,0:T(8,128)}", 9 * 8 * 256 * 4),
        ("f32[64]{0:T(128)}", 128 * 4),
        ("bf16[64]{0:T(1024)(128)(2,1)}", 1024 * 2),
        ("bf16[7]{0:T(256)}", 256 * 2),
        ("s32[]{:T(128)}", 128 * 4),
        ("u8[256,224,224,3]{0,2,3,1:T(32,128)(4,1)}", 224 * 3 * 224 * 256),
        ("f32[6,5,100]{2,1,0:T(*,8,128)}", 32 * 128 * 4),  # 30 rows: the first two axes are tiled together
        ("s4[10]{0:E(4)}", 5),
        ("s4[10]", 10),
        ("c64[3]", 24),
        ("f8e4m3fn[3]", 3),
        ("token[]", 0),
        ("(bf16[8,128]{1,0:T(8,128)(2,1)}, /*index=1*/(f32[2]{0}, u32[]{:S(2)}))", 2048 + 8 + 4),
    ],
)
def test_bytes_count_the_padding_of_tiles(shape, expected):
    assert shape_bytes(shape) == expected


def test_memory_beside_the_cores_is_told_apart():
    inside, outside = arrays("(bf16[8,128]{1,0:T(8,128)(2,1)S(1)}, bf16[8,128]{1,0:T(8,128)(2,1)})")
    assert inside.on_chip and not outside.on_chip


KERNEL = """\
HloModule jit_f, is_scheduled=true, entry_computation_layout={(bf16[64,20]{1,0:T(8,128)(2,1)})->bf16[64,20]{1,0}}

ENTRY %main.1 (x.1: bf16[64,20]) -> bf16[64,20] {
  %x.1 = bf16[64,20]{1,0:T(8,128)(2,1)} parameter(0), metadata={op_name="x"}
  %closed.2 = bf16[64,20]{1,0:T(8,128)(2,1)S(1)} custom-call(%x.1), custom_call_target="tpu_custom_call", \
operand_layout_constraints={bf16[64,20]{1,0}}, metadata={op_name="jit(f)/pallas_call" stack_frame_id=4}, \
backend_config={"flag_configs":[],"custom_call_config":{"body":"TUzv(){}","cost_estimate":{"flops":"12345",\
"transcendentals":"3","bytes_accessed":"777"},"needs_layout_passes":true}}
  %closed.3 = bf16[64,20]{1,0:T(8,128)(2,1)} custom-call(%closed.2), custom_call_target="tpu_custom_call", \
backend_config={"custom_call_config":{"body":"TUzv"}}
  %buffer = bf16[512,512]{1,0:T(8,128)(2,1)S(1)} custom-call(), custom_call_target="AllocateBuffer"
  ROOT %custom-call = (f32[512,5]{0,1:T(8,128)}) custom-call(%closed.3), custom_call_target="TopK", \
called_computations={%compare}
}
"""


def test_a_kernel_counts_operands_and_results_not_its_authors_word():
    (kernel,) = kernels(Program(KERNEL))
    assert kernel.name == "closed" and kernel.calls == 2
    assert kernel.bytes == 4 * 64 * 128 * 2
    assert (kernel.estimated_bytes, kernel.estimated_flops, kernel.without_estimate) == (777, 12345, 1)


def test_only_what_leaves_the_chip_is_traffic_of_its_memory():
    found = work(Program(KERNEL))
    padded, top = 64 * 128 * 2, 8 * 512 * 4
    assert found.hbm_bytes == padded + (padded) + (padded + top)  # the array between the kernels stays inside
    assert found.all_bytes == found.hbm_bytes + 2 * padded


LOOP = """\
%fused (param_0.3: f32[8,128], param_1.3: f32[128,256]) -> f32[8,256] {
  %param_0.3 = f32[8,128]{1,0:T(8,128)} parameter(0)
  %param_1.3 = f32[128,256]{1,0:T(8,128)} parameter(1)
  ROOT %convolution.3 = f32[8,256]{1,0:T(8,128)} convolution(%param_0.3, %param_1.3), dim_labels=bf_io->bf
}

%body.2 (arg: (s32[], f32[8,128], f32[128,256])) -> (s32[], f32[8,128], f32[128,256]) {
  %arg = (s32[]{:T(128)}, f32[8,128]{1,0:T(8,128)}, f32[128,256]{1,0:T(8,128)}) parameter(0)
  %gte.1 = f32[8,128]{1,0:T(8,128)} get-tuple-element(%arg), index=1
  %gte.2 = f32[128,256]{1,0:T(8,128)} get-tuple-element(%arg), index=2
  %product = f32[8,256]{1,0:T(8,128)} fusion(%gte.1, %gte.2), kind=kOutput, calls=%fused
  %all-reduce.1 = f32[8,256]{1,0:T(8,128)} all-reduce(%product), channel_id=1, replica_groups=[2,4]<=[8], \
to_apply=%add
  ROOT %tuple.1 = (s32[]{:T(128)}, f32[8,128]{1,0:T(8,128)}, f32[128,256]{1,0:T(8,128)}) tuple(%arg, %gte.1, %gte.2)
}

%condition.3 (arg.3: (s32[], f32[8,128], f32[128,256])) -> pred[] {
  %constant.3 = s32[]{:T(128)} constant(7)
  %arg.3 = (s32[]{:T(128)}, f32[8,128]{1,0:T(8,128)}, f32[128,256]{1,0:T(8,128)}) parameter(0)
  %count = s32[]{:T(128)} get-tuple-element(%arg.3), index=0
  ROOT %lt.0 = pred[]{:T(512)} compare(%count, %constant.3), direction=LT
}

ENTRY %main.4 (x.1: f32[8,128], w.1: f32[128,256]) -> f32[8,128] {
  %x.1 = f32[8,128]{1,0:T(8,128)} parameter(0)
  %tuple.14 = (s32[]{:T(128)}, f32[8,128]{1,0:T(8,128)}, f32[128,256]{1,0:T(8,128)}) tuple(%x.1, %x.1, %x.1)
  ROOT %while = (s32[]{:T(128)}, f32[8,128]{1,0:T(8,128)}, f32[128,256]{1,0:T(8,128)}) while(%tuple.14), \
condition=%condition.3, body=%body.2
}
"""


def test_a_loop_counts_as_often_as_it_runs():
    program = Program(LOOP)
    looped, once = work(program), work(program, loops=False)
    assert once.products == 2 * 8 * 128 * 256 and looped.products == 7 * once.products
    fused = 4 * (8 * 128 + 128 * 256 + 8 * 256)
    reduced = 4 * 2 * 8 * 256
    condition = 128 * 4 * 2 + 512
    assert once.hbm_bytes == fused + reduced + condition
    assert looped.hbm_bytes == 7 * (fused + reduced) + condition
    (reduce,) = collectives(program, 8)
    assert (reduce.kind, reduce.calls, reduce.bytes) == ("all-reduce", 7, 7 * 4 * 8 * 256)
    assert reduce.sent_bytes == reduce.bytes * 2 * 3 // 4


@pytest.mark.parametrize(
    ("changed", "trips"),
    [
        (("direction=LT", "direction=NE"), None),
        (("body=%body.2", 'body=%body.2, backend_config={"known_trip_count":{"n":"5"}}'), 5),
        (("constant(7)", "parameter(1)"), None),
    ],
)
def test_a_loop_of_unknown_length_counts_once(changed, trips):
    program = Program(LOOP.replace(*changed))
    (loop,) = [site.instruction for site in program.sites() if site.instruction.opcode == "while"]
    assert program.trips(loop) == trips
    assert work(program).products == (trips or 1) * 2 * 8 * 128 * 256


COLLECTIVES = """\
ENTRY %main (x: f32[8,128]) -> f32[8,128] {
  %x = f32[8,128]{1,0} parameter(0)
  %a = (f32[8,128]{1,0}, f32[8,128]{1,0}) all-reduce(%x, %x), replica_groups=mesh['i'=4,'j'=2,'k'=3] {'i','j'}
  %g = (f32[8,128]{1,0}, f32[32,128]{1,0}) all-gather-start(f32[8,128]{1,0} %x), replica_groups={{0,1,2,3},{4,5,6,7}}
  %h = f32[32,128]{1,0} all-gather-done(%g)
  %s = f32[2,128]{1,0} reduce-scatter(%x), replica_groups=[2,4]<=[8]
  ROOT %p = f32[8,128]{1,0} collective-permute(%x), source_target_pairs={{0,1},{1,0}}
}
"""


def test_collectives_by_kind():
    found = {each.kind: each for each in collectives(Program(COLLECTIVES), 24)}
    size = 8 * 128 * 4
    assert {kind: (each.calls, each.bytes, each.sent_bytes) for kind, each in found.items()} == {
        "all-gather": (1, 4 * size, 3 * size),
        "all-reduce": (1, 2 * size, 2 * size * 2 * 7 // 8),
        "collective-permute": (1, size, size),
        "reduce-scatter": (1, size, size * 3 // 4),
    }


SLICES = """\
%part (param_0: f32[64,128], param_1: s32[]) -> f32[8,128] {
  %param_0 = f32[64,128]{1,0} parameter(0)
  %param_1 = s32[] parameter(1)
  %zero = s32[] constant(0)
  ROOT %slice = f32[8,128]{1,0} dynamic-slice(%param_0, %param_1, %zero), dynamic_slice_sizes={8,128}
}

ENTRY %main (x: f32[64,128], i: s32[]) -> f32[8,128] {
  %x = f32[64,128]{1,0} parameter(0)
  %i = s32[] parameter(1)
  %start = ((f32[64,128]{1,0}), f32[16,128]{1,0:S(1)}, s32[]{:S(2)}) slice-start(%x), slice={[0:16], [0:128]}
  %done = f32[16,128]{1,0:S(1)} slice-done(%start)
  ROOT %fusion = f32[8,128]{1,0} fusion(%x, %i), kind=kLoop, calls=%part
}
"""


def test_a_slice_reads_its_part():
    found = work(Program(SLICES))
    assert found.hbm_bytes == 4 * (16 * 128) + 4 * (8 * 128 + 8 * 128 + 1)
    assert found.all_bytes == found.hbm_bytes + 4 * 16 * 128


STACKS = """\
%inner (p.0: f32[64,128], p.1: s32[]) -> f32[8,128] {
  %p.0 = f32[64,128]{1,0} parameter(0)
  %p.1 = s32[] parameter(1)
  %zero = s32[] constant(0)
  %flat = f32[8,8,128]{2,1,0} bitcast(%p.0)
  %slice = f32[1,8,128]{2,1,0} dynamic-slice(%flat, %p.1, %zero, %zero), dynamic_slice_sizes={1,8,128}
  ROOT %whole = f32[8,128]{1,0} bitcast(%slice)
}

%turn (param_0: f32[64,128], param_1: s32[], param_2: f32[8,8,128]) -> (f32[8,8,128], f32[8,128], f32[64,128]) {
  %param_0 = f32[64,128]{1,0} parameter(0)
  %param_1 = s32[] parameter(1)
  %param_2 = f32[8,8,128]{2,1,0} parameter(2)
  %taken = f32[8,128]{1,0} fusion(%param_0, %param_1), kind=kLoop, calls=%inner
  %added = f32[8,128]{1,0} add(%taken, %taken)
  %part = f32[1,8,128]{2,1,0} bitcast(%added)
  %zero.1 = s32[] constant(0)
  %kept = f32[8,8,128]{2,1,0} dynamic-update-slice(%param_2, %part, %param_1, %zero.1, %zero.1)
  %fresh = f32[64,128]{1,0} broadcast(%zero.1), dimensions={}
  %other = f32[64,128]{1,0} dynamic-update-slice(%fresh, %added, %param_1, %zero.1)
  ROOT %tuple = (f32[8,8,128]{2,1,0}, f32[8,128]{1,0}, f32[64,128]{1,0}) tuple(%kept, %added, %other)
}

%more (at: f32[64,128]) -> pred[] {
  ROOT %yes = pred[] constant(true)
}

%body (x: f32[64,128], i: s32[], y: f32[8,8,128]) -> f32[8,8,128] {
  %x = f32[64,128]{1,0} parameter(0)
  %i = s32[] parameter(1)
  %y = f32[8,8,128]{2,1,0} parameter(2)
  %three = (f32[8,8,128]{2,1,0}, f32[8,128]{1,0}, f32[64,128]{1,0}) fusion(%x, %i, %y), kind=kLoop, calls=%turn
  %first = f32[8,8,128]{2,1,0} get-tuple-element(%three), index=0
  %row = f32[1,8,128]{2,1,0} parameter(3)
  %none = s32[] constant(0)
  ROOT %again = f32[8,8,128]{2,1,0} dynamic-update-slice(%first, %row, %i, %none, %none)
}

ENTRY %main (start: f32[64,128]) -> f32[8,8,128] {
  %start = f32[64,128]{1,0} parameter(0)
  ROOT %loop = f32[8,8,128]{2,1,0} while(%start), condition=%more, body=%body
}
"""


def test_of_a_stack_only_the_slice_counts():
    """A nested fusion reads the slice; the slice is written in place to an operand, or to an array created there."""
    row, stack, index = 4 * 8 * 128, 4 * 64 * 128, 4
    fused = (row + index + 0) + (row + row + stack)
    alone = (row + 3 * index) + row
    assert work(Program(STACKS)).hbm_bytes == fused + alone
    outside = STACKS.replace("%main", "%unused").replace("ENTRY ", "").replace("%body (", "ENTRY %body (")
    everything = (stack + index + stack) + (stack + row + stack) + (stack + row + 3 * index) + stack
    assert work(Program(outside)).hbm_bytes == everything  # outside a loop whole arrays count


SUMS = """\
%add (a: f32[], b: f32[]) -> f32[] {
  %a = f32[] parameter(0)
  %b = f32[] parameter(1)
  ROOT %sum = f32[] add(%a, %b)
}

%fused (p.0: f32[64,128], p.1: s32[5], p.2: f32[128]) -> f32[64,128] {
  %p.0 = f32[64,128]{1,0} parameter(0)
  %p.1 = s32[5]{0} parameter(1)
  %p.2 = f32[128]{0} parameter(2)
  %rows = f32[5,128]{1,0} broadcast(%p.2), dimensions={1}
  ROOT %summed = f32[64,128]{1,0} scatter(%p.0, %p.1, %rows), update_window_dims={1}, to_apply=%add
}

%more (at: f32[64,128]) -> pred[] {
  ROOT %yes = pred[] constant(true)
}

%body (x: f32[64,128], i: s32[5], y: f32[128]) -> f32[64,128] {
  %x = f32[64,128]{1,0} parameter(0)
  %i = s32[5]{0} parameter(1)
  %y = f32[128]{0} parameter(2)
  %z = f32[5,128]{1,0} parameter(3)
  %inside = f32[64,128]{1,0} fusion(%x, %i, %y), kind=kInput, calls=%fused, \
metadata={op_name="jit(step)/transpose(jvp(jit(_roi_align)))/while/body/scatter-add"}
  ROOT %alone = f32[64,128]{1,0} scatter(%inside, %i, %z), update_window_dims={1}, to_apply=%add, \
metadata={op_name="jit(step)/scatter-add"}
}

ENTRY %main (start: f32[64,128]) -> f32[64,128] {
  %start = f32[64,128]{1,0} parameter(0)
  ROOT %loop = f32[64,128]{1,0} while(%start), condition=%more, body=%body
}
"""


def test_a_sum_into_places_reads_and_writes_these_alone():
    """In a loop, as RoIAlign's gradient has it: not the whole array each time."""
    rows, indices, row, whole = 4 * 5 * 128, 4 * 5, 4 * 128, 4 * 64 * 128
    inside, alone = (rows + indices + row) + rows, (rows + indices + rows) + rows
    assert work(Program(SUMS)).hbm_bytes == inside + alone
    outside = SUMS.replace("%main", "%unused").replace("ENTRY ", "").replace("%body (", "ENTRY %body (")
    assert work(Program(outside)).hbm_bytes == inside + alone + 4 * (whole - rows)


def test_a_part_of_a_program_counts_by_its_operations():
    rows, indices, row = 4 * 5 * 128, 4 * 5, 4 * 128
    program = Program(SUMS)
    assert work(program, scope="roi_align").hbm_bytes == rows + indices + row + rows
    assert work(program, scope="step").hbm_bytes == work(program).hbm_bytes
    assert work(program, scope="nowhere").hbm_bytes == 0


@pytest.mark.parametrize("strides", [1, 2])
@pytest.mark.parametrize("which", ["forward", "gradient of the input", "gradient of the kernel"])
def test_products_are_those_of_the_compiler(strides, which):
    """The expected count is XLA's own on the CPU, for a convolution and its two gradients."""

    def convolve(x, kernel):
        return jax.lax.conv_general_dilated(
            x, kernel, (strides, strides), ((1, 1), (1, 1)), dimension_numbers=("NHWC", "HWIO", "NHWC")
        )

    x, kernel = jnp.ones((2, 7, 9, 5)), jnp.ones((3, 3, 5, 11))
    out = convolve(x, kernel)
    functions = {
        "forward": (convolve, x, kernel),
        "gradient of the input": (lambda g, k: jax.vjp(lambda x: convolve(x, k), x)[1](g)[0], out, kernel),
        "gradient of the kernel": (lambda g, x: jax.vjp(lambda k: convolve(x, k), kernel)[1](g)[0], out, x),
    }
    function, *arguments = functions[which]
    lowered = jax.jit(function).lower(*arguments)
    expected = lowered.cost_analysis()["flops"]
    found = work(Program(lowered.compiler_ir("hlo").as_hlo_text())).products
    np.testing.assert_allclose(found, expected, rtol=0.02)


@pytest.mark.thorough
def test_products_of_stacked_blocks_grow_with_the_depth():
    """The programs have a forward and a backward loop and are not compiled; an iteration counts one block."""
    found = {
        depth: work(Program(trunk_program(depth, (4, 2, 3), 16).compiler_ir("hlo").as_hlo_text()))
        for depth in (2, 3, 9)
    }
    block = found[3].products - found[2].products
    assert found[9].products == found[2].products + 7 * block
    # Two 1×1 convolutions, d to d: once forward, once recomputed, twice backward.
    assert block > 4 * 2 * 2 * 16 * 16 * 24


def trunk_program(depth, map_shape, width, device=None):
    """Return the lowered gradient of a trunk."""
    sharding = None if device is None else jax.sharding.SingleDeviceSharding(device)
    model = nnx.eval_shape(
        lambda: create_model("patchconvnet_s60", width=width, depth=depth, num_classes=2, rngs=nnx.Rngs(0))
    )
    graph, state = nnx.split(model.trunk)
    shapes = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), state)
    x = jax.ShapeDtypeStruct((*map_shape, width), jnp.float32, sharding=sharding)

    def loss(state, x):
        return nnx.merge(graph, state, copy=True)(x, train=True, rngs=None)[0].sum()

    return jax.jit(jax.grad(loss)).lower(nnx.to_pure_dict(shapes), x)


def test_text_that_is_no_program():
    with pytest.raises(ValueError, match="has no ENTRY"):
        Program("module @jit_f {}")


def test_a_conditional_counts_its_smallest_branch():
    program = Program("""HloModule step

%again (p: f32[1000]) -> f32[10] {
  %p = f32[1000]{0} parameter(0)
  %shifted = f32[1000]{0} negate(%p)
  ROOT %r = f32[10]{0} slice(%shifted), slice={[0:10]}
}

%as_it_is (q: f32[10]) -> f32[10] {
  %q = f32[10]{0} parameter(0)
  ROOT %n = f32[10]{0} negate(%q)
}

ENTRY %main (x: f32[1000], y: f32[10], i: s32[]) -> f32[10] {
  %x = f32[1000]{0} parameter(0)
  %y = f32[10]{0} parameter(1)
  %i = s32[] parameter(2)
  ROOT %c = f32[10]{0} conditional(%i, %x, %y), branch_computations={%again, %as_it_is}
}
""")
    assert work(program).all_bytes == 2 * 40  # the negation of ten numbers
    assert work(program, largest=True).all_bytes == 2 * 4000 + 2 * 40  # a thousand numbers, and the slice of ten
