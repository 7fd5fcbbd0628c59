"""Tests of GPUs by name, and of reading the programs that XLA compiles for them."""

import pytest

from aa_flax.analysis import gpu_compiler
from aa_flax.analysis.cards import CARDS, Machine, target_config
from aa_flax.analysis.compiler import CompilerError, TargetError
from aa_flax.analysis.hlo import Program
from aa_flax.analysis.hlo_traffic import collectives, kernels
from aa_flax.analysis.hlo_work import launches, work
from aa_flax.analysis.targets import compiler_of, find_target
from aa_flax.ops import choice
from aa_flax.ops.platform import target_capability


def test_machines_by_name():
    target = find_target("h100:8")
    assert isinstance(target, Machine) and target.chips == 8 and target.topology == "h100:8"
    assert compiler_of(target) is gpu_compiler
    assert compiler_of(find_target("v5e:2x2")) is not gpu_compiler


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("h100", "must say how many cards of one machine, 1 to 8, such as h100:1"),
        ("l4:16", "must say how many cards"),
        ("a100:2x2", "must say how many cards"),
        ("b300:1", "h100, h200, a100, l4, such as h100:8"),
    ],
)
def test_names_that_are_no_machine(name, message):
    with pytest.raises(TargetError, match=message) as error:
        find_target(name)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("card", CARDS.values(), ids=lambda card: card.name)
def test_a_card_can_do_less_in_more_bits(card):
    assert card.peaks["bfloat16"] >= 2 * card.peaks["tf32"] > card.peaks["float32"]
    assert card.usable_bytes < card.memory_bytes
    assert f'name: "{card.title}"' in target_config(card)


@pytest.mark.parametrize(("card", "capability", "chosen"), [("h200", (9, 0), "cudnn"), ("l4", (8, 9), "pallas_gpu")])
def test_attention_is_chosen_as_on_the_card_itself(monkeypatch, card, capability, chosen):
    monkeypatch.setattr(choice, "target_platform", lambda: "gpu")
    with gpu_compiler.traced(find_target(f"{card}:1")):
        assert target_capability() == capability
        assert choice.choose("bfloat16", 14, 14, 8, 20, 3, True) == chosen
    assert target_capability() is None


def test_without_the_plugin_it_is_one_line(monkeypatch):
    monkeypatch.setattr(gpu_compiler, "packages", tuple)
    with pytest.raises(CompilerError, match="JAX's plugin for CUDA is not installed: pip install") as error:
        gpu_compiler.prepare()
    assert "\n" not in str(error.value)


def test_a_plugin_of_another_jax_is_one_line(monkeypatch):
    monkeypatch.setattr(gpu_compiler, "packages", lambda: ("jax-cuda13-plugin",))
    monkeypatch.setattr(gpu_compiler, "package_version", lambda name: "0.1.2")
    with pytest.raises(
        CompilerError, match=r"jax-cuda13-plugin 0.1.2 does not go with jaxlib .* pip install --no-deps"
    ):
        gpu_compiler.prepare()


# As XLA of jaxlib 0.11.2 prints programs for an H100, shortened.
CONVOLUTION = """HloModule step

%fused (p: bf16[8,6,6,16]) -> bf16[8,6,6,16] {
  %p = bf16[8,6,6,16]{3,2,1,0} parameter(0)
  ROOT %n = bf16[8,6,6,16]{3,2,1,0} negate(%p)
}

%body (s: (s32[], bf16[8,6,6,16])) -> (s32[], bf16[8,6,6,16]) {
  %s = (s32[], bf16[8,6,6,16]) parameter(0)
  %i = s32[] get-tuple-element(%s), index=0
  %m = bf16[8,6,6,16]{3,2,1,0} get-tuple-element(%s), index=1
  %f = bf16[8,6,6,16]{3,2,1,0} fusion(%m), kind=kLoop, calls=%fused
  ROOT %t = (s32[], bf16[8,6,6,16]) tuple(%i, %f)
}

%condition (s: (s32[], bf16[8,6,6,16])) -> pred[] {
  %s = (s32[], bf16[8,6,6,16]) parameter(0)
  %i = s32[] get-tuple-element(%s), index=0
  %five = s32[] constant(5)
  ROOT %less = pred[] compare(%i, %five), direction=LT
}

ENTRY %main (x: bf16[8,6,6,16], k: bf16[16,3,3,16]) -> bf16[8,6,6,16] {
  %x = bf16[8,6,6,16]{3,2,1,0} parameter(0)
  %k = bf16[16,3,3,16]{3,2,1,0} parameter(1)
  %conv = (bf16[8,6,6,16]{3,2,1,0}, u8[4096]{0}) custom-call(%x, %k), window={size=3x3 pad=1_1x1_1}, dim_labels=b01f_o01i->b01f, custom_call_target="__cudnn$convForward"
  %y = bf16[8,6,6,16]{3,2,1,0} get-tuple-element(%conv), index=0
  %zero = s32[] constant(0)
  %start = (s32[], bf16[8,6,6,16]) tuple(%zero, %y)
  %loop = (s32[], bf16[8,6,6,16]) while(%start), condition=%condition, body=%body, backend_config={"known_trip_count":{"n":"5"}}
  ROOT %z = bf16[8,6,6,16]{3,2,1,0} get-tuple-element(%loop), index=1
}
"""  # noqa: E501


def test_a_program_for_gpus():
    program = Program(CONVOLUTION)
    map_bytes, kernel_bytes = 2 * 8 * 6 * 6 * 16, 2 * 16 * 9 * 16
    found = {launch.name: launch for launch in launches(program)}
    # Operands and results; the workspace of cuDNN, 4,096 bytes, is not counted.
    assert found["__cudnn$convForward"].bytes == 2 * map_bytes + kernel_bytes
    assert (found["f"].calls, found["f"].bytes) == (5, 5 * 2 * map_bytes)
    assert work(program).all_bytes == sum(launch.bytes for launch in found.values())
    valid = (3 * 6 - 2) ** 2  # pairs of a location and a kernel offset inside the map
    assert work(program).products == 2 * 8 * 16 * 16 * valid


BESIDE = """HloModule step, is_scheduled=true

%taken (p: f32[70,110], i: s32[]) -> f32[1,110] {
  %p = f32[70,110]{1,0} parameter(0)
  %i = s32[] parameter(1)
  %zero = s32[] constant(0)
  ROOT %s = f32[1,110]{1,0} dynamic-slice(%p, %i, %zero), dynamic_slice_sizes={1,110}
}

%captured (a: bf16[50,30], b: bf16[30,20]) -> f32[50,20] {
  %a = bf16[50,30]{1,0} parameter(0)
  %b = bf16[30,20]{1,0} parameter(1)
  %gemm = (f32[50,20]{1,0}, s8[4194304]{0}) custom-call(%a, %b), custom_call_target="__cublas$lt$matmul", backend_config={"gemm_backend_config":{"dot_dimension_numbers":{"lhs_contracting_dimensions":["1"],"rhs_contracting_dimensions":["0"]},"precision_config":{"operand_precision":["DEFAULT","DEFAULT"]}}}
  ROOT %c = f32[50,20]{1,0} get-tuple-element(%gemm), index=0
}

ENTRY %main (x: f32[70,110], i: s32[], a: bf16[50,30], b: bf16[30,20]) -> f32[110] {
  %x = f32[70,110]{1,0} parameter(0)
  %i = s32[] parameter(1)
  %a = bf16[50,30]{1,0} parameter(2)
  %b = bf16[30,20]{1,0} parameter(3)
  %fusion-start = ((f32[70,110]{1,0}, s32[]), f32[1,110]{1,0}, u32[]) fusion-start(%x, %i), kind=kLoop, calls=%taken
  %call = f32[50,20]{1,0} call(%a, %b), to_apply=%captured
  %kernel = f32[70,110]{1,0} custom-call(%x), custom_call_target="__gpu$xla.gpu.triton", backend_config={grid_x = 4 : i32, ir = "ML", name = "doubled", num_stages = 2 : i32}
  %fusion-done = f32[1,110]{1,0} fusion-done(%fusion-start)
  %row = f32[110]{0} bitcast(%fusion-done)
  %all-reduce-start = ((f32[110]{0}), f32[110]{0}) all-reduce-start(%row), replica_groups=mesh['data'=8] {'data'}, to_apply=%sum
  ROOT %all-reduce-done = f32[110]{0} all-reduce-done(%all-reduce-start)
}
"""  # noqa: E501


def test_what_runs_beside_and_what_is_called():
    """The program has an asynchronous fusion and collective, a captured graph with cuBLAS in it and a Pallas kernel."""
    program = Program(BESIDE)
    found = {launch.name: (launch.calls, launch.bytes) for launch in launches(program)}
    assert found == {
        "fusion": (1, 4 * (110 + 1 + 110)),  # it reads one of the 70 rows
        "__cublas$lt$matmul": (1, 2 * (50 * 30 + 30 * 20) + 4 * 50 * 20),  # without workspace
        "doubled": (1, 4 * 2 * 70 * 110),
        "all-reduce": (1, 4 * 2 * 110),
    }
    counted = work(program)
    assert counted.all_bytes == sum(size for _, size in found.values())
    assert counted.whole_bytes == counted.all_bytes + 4 * (70 - 1) * 110
    assert counted.products_by_precision == {"bfloat16": 2 * 50 * 30 * 20}
    (kernel,) = kernels(program)
    assert (kernel.bytes, kernel.without_estimate) == (4 * 2 * 70 * 110, 1)
    (reduced,) = collectives(program, 8)
    assert (reduced.kind, reduced.bytes, reduced.sent_bytes) == ("all-reduce", 440, 770)  # 2 * 440 * 7 / 8


def library_call(target, operands, result, rest=""):
    """Return the number of products of one call of an NVIDIA library, by the precision of the products."""
    lines = [f"  %p{i} = {shape} parameter({i})" for i, shape in enumerate(operands)]
    names = ", ".join(f"%p{i}" for i in range(len(operands)))
    call = f'  ROOT %c = ({result}, u8[0]{{0}}) custom-call({names}){rest}, custom_call_target="{target}"'
    text = "HloModule m\n\nENTRY %main (p0: f32[1]) -> f32[1] {\n" + "\n".join([*lines, call]) + "\n}\n"
    return work(Program(text)).products_by_precision


@pytest.mark.parametrize("asked", ["", ", operand_precision={highest,highest}"])
@pytest.mark.parametrize(
    ("target", "places"),
    [("__cudnn$convForward", "xko"), ("__cudnn$convBackwardFilter", "xok"), ("__cudnn$convBackwardInput", "okx")],
)
def test_gradients_of_a_convolution_multiply_as_often_as_the_forward_pass(target, places, asked):
    """All three calls have the window and the dimensions of the forward pass."""
    shapes = {"x": "f32[5,7,9,4]{3,2,1,0}", "k": "f32[6,3,3,4]{3,2,1,0}", "o": "f32[5,4,5,6]{3,2,1,0}"}
    first, second, result = (shapes[letter] for letter in places)
    window = ", window={size=3x3 stride=2x2 pad=1_1x1_1}, dim_labels=b01f_o01i->b01f"
    meetings = (3 * 4 - 2) * (3 * 5 - 2)  # pairs of an output location and a kernel offset inside the map
    expected = {"float32" if asked else "tf32": 2 * 5 * 4 * 6 * meetings}
    assert library_call(target, (first, second), result, window + asked) == expected


@pytest.mark.parametrize(("target", "depths"), [("Softmax", 48 + 40), ("SoftmaxBackward", 3 * 48 + 2 * 40)])
def test_products_of_fused_attention(target, depths):
    query, value = "bf16[2,35,3,48]{3,2,1,0}", "bf16[2,35,3,40]{3,2,1,0}"
    config = ', backend_config={"intermediate_tensor_shape": {"dimensions": ["2", "3", "35", "35"]}}'
    found = library_call(f"__cudnn$fmha{target}", (query, query, value), value, config)
    assert found == {"bfloat16": 2 * 2 * 3 * 35 * 35 * depths}
