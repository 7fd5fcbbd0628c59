"""Tests of the interpreted GPU kernels: against float64, at sizes that no tile divides, and in the layer."""

import functools
import json
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from aa_flax import ops
from aa_flax.analysis import summarize
from aa_flax.layers import AAConv2D
from aa_flax.ops import choice, pallas_gpu
from aa_flax.ops.pallas_gpu.shape import Shape, caller_precision, tile_of
from aa_flax.ops.platform import traced_for

sys.path.insert(0, str(Path(__file__).parent))
import attention_oracle as oracle
from absent_gpu import absent_gpu

# float32: sums of some hundred products; others round weights, gradients of logits and keys with offsets once each
TOLERANCE = {"float32": 3e-6, "bfloat16": 2e-2, "float16": 3e-3}
ATTEND = functools.partial(ops.relative_attention_2d, implementation="pallas_gpu_interpret")


@functools.partial(jax.jit, static_argnames="scale")
def output_and_gradients(cotangent, *arrays, scale=None):
    nothing = [None] * (5 - len(arrays))
    output, pullback = jax.vjp(lambda *a: ATTEND(*a, *nothing, scale=scale), *arrays)
    return [output, *pullback(cotangent)]


def assert_right(rng, size, dtype="float32", *, tables=True, scale=None):
    """Check that output and five gradients equal those of the definition in float64, from the same inputs."""
    arrays = [x for x in oracle.inputs(rng, *size, tables=tables, dtype=jnp.dtype(dtype)) if x is not None]
    cotangent = jnp.asarray(rng.normal(size=(*size[:4], size[-1])), dtype)
    got = output_and_gradients(cotangent, *arrays, scale=scale)
    exact = [np.asarray(x, np.float64) for x in arrays] + [None] * (5 - len(arrays))
    output, gradients = oracle.attend(*exact, size[-2] ** -0.5 if scale is None else scale, cotangent)
    for ours, wanted in zip(got, [output, *(g for g in gradients if g is not None)], strict=True):
        assert ours.dtype == dtype
        error = np.abs(np.asarray(ours, np.float64) - wanted).max()
        assert error <= TOLERANCE[dtype] * max(1.0, np.abs(wanted).max())


@pytest.mark.few
@pytest.mark.parametrize(
    ("dv", "dtype"),
    [
        *((dv, "float32") for dv in (1, 3, 16)),
        (3, "bfloat16"),
        *(pytest.param(dv, "float32", marks=pytest.mark.thorough) for dv in (2, 4, 6, 8)),
        *(pytest.param(dv, "bfloat16", marks=pytest.mark.thorough) for dv in (1, 16)),
        pytest.param(2, "float16", marks=pytest.mark.thorough),
    ],
)
def test_value_and_five_gradients(rng, dv, dtype):
    assert_right(rng, (2, 3, 5, 2, 7, dv), dtype)


@pytest.mark.few
@pytest.mark.parametrize(
    ("size", "tables"),
    [
        ((1, 17, 3, 1, 20, 3), True),  # two tiles in a column of the map, or one partly filled tile
        ((1, 2, 19, 1, 33, 2), True),  # the same in a row; the depth is padded to 64
        pytest.param((1, 33, 2, 1, 5, 1), True, marks=pytest.mark.thorough),
        pytest.param((1, 3, 49, 1, 5, 1), True, marks=pytest.mark.thorough),
        ((2, 5, 3, 3, 4, 2), False),
        ((1, 1, 1, 1, 1, 1), True),
    ],
    ids=str,
)
def test_sizes_that_no_tile_divides(rng, size, tables):
    assert_right(rng, size, tables=tables)


@pytest.mark.thorough
def test_larger_tiles_in_sixteen_bits(rng):
    assert_right(rng, (1, 17, 19, 1, 5, 2), "bfloat16")


@pytest.mark.thorough
def test_scales_of_either_sign_and_logits_far_from_zero(rng):
    for scale in (-0.7, 0.0):
        assert_right(rng, (1, 3, 2, 1, 3, 2), scale=scale)
    query, key, *rest = oracle.inputs(rng, 1, 3, 2, 1, 3, 2)
    for scale in (100.0, -100.0):  # a larger logit outside the map would leave the others no weight
        got, wanted = (
            ops.relative_attention_2d(30 * query, 30 * key, *rest, scale=scale, implementation=name)
            for name in ("pallas_gpu_interpret", "folded")
        )
        np.testing.assert_allclose(got, wanted, rtol=1e-5)


def test_heads_are_taken_together_where_that_leaves_programs_enough(rng):
    wide = Shape(14, 14, 8, 20, 3, 0.2, True, jnp.dtype("bfloat16"))
    assert [wide.group(batch) for batch in (1, 128, 256, 512)] == [1, 2, 4, 8]
    assert all(8 % wide.group(batch) == 0 for batch in range(1, 300))


@pytest.mark.parametrize(
    ("side", "dtype", "stages"), [(7, "bfloat16", 1), (14, "bfloat16", 2), (32, "bfloat16", 3), (32, "float32", 1)]
)
def test_long_loops_of_the_backward_pass_have_several_loads_under_way(side, dtype, stages):
    shape = Shape(side, side, 8, 20, 3, 0.2, True, jnp.dtype(dtype))
    assert shape.stages(backward=True) == stages and shape.stages(backward=False) == 1


@pytest.mark.thorough
def test_the_gradients_do_not_depend_on_how_heads_are_taken(rng, monkeypatch):
    size = (2, 3, 5, 4, 7, 3)
    arrays, cotangent = oracle.inputs(rng, *size), jnp.asarray(rng.normal(size=(*size[:4], 3)), jnp.float32)
    found = []
    for heads in (1, 2):
        monkeypatch.setattr(Shape, "group", lambda shape, batch, heads=heads: heads)
        attend = functools.partial(pallas_gpu.pallas_gpu, scale=0.3, interpret=True)
        found.append(jax.jit(lambda *arrays, attend=attend: jax.vjp(attend, *arrays)[1](cotangent))(*arrays))
    for ours, theirs in zip(*found, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
@pytest.mark.parametrize("length", [1, 7, 14, 16, 17, 28, 32, 33, 40, 56, 80, 97])
def test_tiles_cover_a_line_without_much_beyond_it(length, dtype):
    tile = tile_of(length, dtype)
    assert tile in (16, 32)
    assert -(-length // tile) * tile < length + tile


def test_precision_is_the_callers():
    wanted = {
        None: jax.lax.Precision.DEFAULT,
        "tensorfloat32": jax.lax.Precision.DEFAULT,
        "high": jax.lax.DotAlgorithmPreset.TF32_TF32_F32_X3,
        "float32": jax.lax.Precision.HIGHEST,
    }
    for name, precision in wanted.items():
        with jax.default_matmul_precision(name):
            assert caller_precision(False) == precision


def layer(implementation, **options):
    settings = dict(num_heads=2, key_depth=10, value_depth=6, spatial_shape=(3, 5), use_bias=True)
    model = AAConv2D(11, 16, 3, **{**settings, **options}, implementation=implementation, rngs=nnx.Rngs(0))
    for conv in (model.qkv, model.out):
        if conv.bias is not None:
            conv.bias[...] = jnp.linspace(-0.3, 0.4, conv.bias.shape[0])
    return model


def of_layer(model, x, mesh=None):
    graph, state = nnx.split(model)

    @jax.jit
    def run(state, x):
        def weighted_sum(state, x):
            y = nnx.merge(graph, state, copy=True)(x)
            return jnp.sum(jnp.sin(y)), y

        (_, y), gradients = jax.value_and_grad(weighted_sum, (0, 1), has_aux=True)(state, x)
        return y, gradients

    if mesh is None:
        return jax.tree.leaves(run(state, x))
    with jax.set_mesh(mesh):
        return jax.tree.leaves(run(state, jax.device_put(x, jax.NamedSharding(mesh, jax.P("data")))))


@pytest.mark.thorough
@pytest.mark.parametrize(
    "options", [{}, {"position": "none", "use_bias": False}], ids=["relative_and_bias", "no_position"]
)
def test_the_layer_hands_the_projection_on_as_it_is(rng, options):
    x = jnp.asarray(rng.normal(size=(2, 3, 5, 11)), jnp.float32)
    model = layer("pallas_gpu_interpret", **options)
    assert "split" not in str(jax.make_jaxpr(model.attend)(x))
    for ours, theirs in zip(of_layer(model, x), of_layer(layer("reference", **options), x), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=3e-6, atol=3e-5)


@pytest.mark.thorough
def test_split_over_a_mesh_it_computes_the_same(rng):
    x = jnp.asarray(rng.normal(size=(8, 3, 5, 11)), jnp.float32)
    model = layer("pallas_gpu_interpret")
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    for ours, theirs in zip(of_layer(model, x, mesh), of_layer(model, x), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=3e-6, atol=3e-5)
    with pytest.raises(ValueError, match="data axis of 8; a batch of 3 does not divide"), jax.set_mesh(mesh):
        model(x[:3])


def test_flops_are_those_of_the_layer_whatever_runs():
    counts = []
    for implementation in ("folded", "pallas_gpu_interpret"):
        for position in ("relative", "none"):
            model = layer(implementation, use_bias=False, position=position)
            model.image_size, model.in_channels = (3, 5), 11
            found = summarize(model)
            counts.append((found.flops, found.paper_flops, found.by_module["qkv"].flops))
    assert counts[:2] == counts[2:]
    assert counts[0] != counts[1]


@pytest.mark.usefixtures("unchecked_shapes")
def test_what_it_cannot_serve_is_said(rng, monkeypatch):
    arrays = oracle.inputs(rng, 1, 2, 3, 1, 5, 3)
    with pytest.raises(RuntimeError, match="'pallas_gpu' runs on NVIDIA GPUs, and this program is traced for a cpu"):
        ops.relative_attention_2d(*arrays, implementation="pallas_gpu")
    with jax.enable_x64(True), pytest.raises(TypeError, match="bfloat16, float16 or float32, got float64; use 'folde"):
        ATTEND(*[jnp.asarray(np.asarray(x, np.float64)) for x in arrays])
    for depths, dtype, words in (
        ((65, 3), "float32", "takes a key depth of at most 64 per head in float32, got 65; use 'folded'"),
        ((5, 129), "bfloat16", "takes a value depth of at most 128 per head in bfloat16, got 129"),
    ):
        with pytest.raises(ValueError, match=words):
            ATTEND(*oracle.inputs(rng, 1, 2, 3, 1, *depths, dtype=jnp.dtype(dtype)))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(RuntimeError, match="needs Pallas for Triton, which jax .* does not have; use 'folded'"):
        ATTEND(*oracle.inputs(rng, 1, 3, 2, 1, 5, 3))
    monkeypatch.undo()
    monkeypatch.setattr(pallas_gpu, "target_capability", lambda: (7, 5))
    with traced_for("gpu"), pytest.raises(RuntimeError, match="capability 8.0 or newer, got 7.5; use 'folded'"):
        ops.relative_attention_2d(*oracle.inputs(rng, 1, 3, 4, 1, 5, 3), implementation="pallas_gpu")


def test_auto_takes_another_where_jax_has_no_triton(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    monkeypatch.setattr(choice, "target_platform", lambda: "gpu")
    choice._choose.cache_clear()
    assert choice.choose("bfloat16", 14, 14, 8, 20, 3, True) != "pallas_gpu"
    choice._choose.cache_clear()


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_it_lowers_for_a_gpu_that_is_not_here(dtype):
    """The lowered program includes the gradients."""
    shapes = [(2, 5, 7, 2, 20), (2, 5, 7, 2, 20), (2, 5, 7, 2, 3), (9, 20), (13, 20)]

    def loss(*arrays):
        heads = ops.relative_attention_2d(*arrays, implementation="pallas_gpu")
        return heads.astype(jnp.float32).sum()

    with absent_gpu():
        traced = jax.jit(jax.grad(loss, range(5))).trace(*(jax.ShapeDtypeStruct(shape, dtype) for shape in shapes))
        text = traced.lower(lowering_platforms=("cuda",)).as_text()
    assert "relative_attention_forward" in text
    assert "relative_attention_backward" in text


@pytest.mark.h100
@pytest.mark.parametrize("shapes", [1, pytest.param(3, marks=pytest.mark.slow)])
def test_compiled_for_an_h100_everything_stays_in_registers(tmp_path, shapes):
    """The kernels are compiled at the first of the shapes that `experiments/results/kernels_h100.json` has.

    They are compiled in a process of its own, whose compiler writes its output to files.
    """
    if shutil.which("ptxas") is None:
        pytest.skip("needs ptxas")
    command = [sys.executable, "-m", "experiments.benchmarks.kernels_h100"]
    command += [f"--first={shapes}", f"--output={tmp_path / 'found.json'}"]
    subprocess.run(command, check=True, cwd=Path(__file__).parents[2])
    rows = json.loads((tmp_path / "found.json").read_text())["rows"]
    found = [kernel for row in rows for kernel in row["kernels"]]
    assert len(rows) == shapes and len(found) == 2 * shapes
    for kernel in found:
        assert kernel["spilled_bytes"] == 0, kernel
        assert kernel["registers"] <= 255, kernel


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"rel_height": (7, 5)}, r"rel_height must have shape \(5, 5\) for a 3x5 map"),
        ({"rel_height": None}, "both be given or both be None"),
        ({"num_heads": 3}, "num_heads=3 must divide value_depth=4"),
        ({"value_depth": 24}, "the key depth, half of the other 0 channels"),
        ({"implementation": "folded"}, "must be one of 'pallas_gpu', 'pallas_gpu_interpret', got 'folded'"),
        ({"qkv": (0, 3, 5, 24)}, "none of them 0"),
    ],
    ids=str,
)
@pytest.mark.usefixtures("unchecked_shapes")
def test_arguments_that_do_not_fit(change, words):
    shapes = {"qkv": (2, 3, 5, 24), "rel_height": (5, 5), "rel_width": (9, 5)}
    options = {"num_heads": 2, "value_depth": 4, "implementation": "pallas_gpu_interpret"}
    options |= {name: change[name] for name in options if name in change}
    shapes |= {name: shape for name, shape in change.items() if name in shapes}
    arrays = [shape if shape is None else jnp.ones(shape) for shape in shapes.values()]
    with pytest.raises(ValueError, match=words):
        ops.packed_attention(*arrays, **options)
