"""Tests of the interpreted TPU kernel: against float64, at sizes that no tile divides, and in the layer."""

import functools
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
from aa_flax.ops import choice
from aa_flax.ops.pallas_tpu.branch import _with_images
from aa_flax.ops.pallas_tpu.shape import Shape
from aa_flax.ops.platform import traced_for
from aa_flax.ops.reference import reference

sys.path.insert(0, str(Path(__file__).parent))
import attention_oracle as oracle

# float32: sums of a few hundred products; bfloat16: folded terms, weights and gradients round once each, to 4e-3
TOLERANCE = {"float32": 2e-6, "bfloat16": 1.5e-2}


def both(rng, size, dtype, *, tables=True):
    """Return output and gradients of the kernel, and those of the definition in float64, from the same inputs."""
    dv = size[-1]
    arrays = [x for x in oracle.inputs(rng, *size, tables=tables, dtype=jnp.dtype(dtype)) if x is not None]
    nothing = [None] * (5 - len(arrays))
    cotangent = jnp.asarray(rng.normal(size=(*size[:4], dv)), dtype)

    @functools.partial(jax.jit, static_argnums=0)
    def run(attend, cotangent, *arrays):
        output, pullback = jax.vjp(lambda *a: attend(*a, *nothing), *arrays)
        return [output, *pullback(cotangent)]

    kernel = functools.partial(ops.relative_attention_2d, implementation="pallas_tpu_interpret")
    got = run(kernel, cotangent, *arrays)
    with jax.enable_x64(True):
        exact = [jnp.asarray(np.asarray(x, np.float64)) for x in (cotangent, *arrays)]
        wanted = [np.asarray(x) for x in run(functools.partial(reference, scale=size[-2] ** -0.5), *exact)]
    return got, wanted


def assert_close(got, wanted, dtype):
    for ours, exact in zip(got, wanted, strict=True):
        assert ours.dtype == dtype
        error = np.abs(np.asarray(ours, np.float64) - exact).max()
        assert error <= TOLERANCE[dtype] * max(1.0, np.abs(exact).max())


@pytest.mark.few(1, thorough=5)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("dv", [1, 2, 3, 6, 8])
def test_value_and_five_gradients_at_the_papers_value_depths(rng, dv, dtype):
    assert_close(*both(rng, (2, 5, 7, 2, 20, dv), dtype), dtype)


@pytest.mark.few(1, thorough=3)
@pytest.mark.parametrize(
    "size",
    [
        (1, 13, 11, 3, 20, 3),  # 143 locations in 256 lanes
        (1, 17, 16, 1, 9, 2),  # three tiles of queries, one of keys
        (1, 33, 35, 1, 4, 2),  # 1,155 locations: several tiles of both, online softmax, heads one by one
    ],
    ids=str,
)
@pytest.mark.parametrize("tables", [True, False], ids=["relative", "no_position"])
def test_sizes_that_no_tile_divides(rng, size, tables):
    assert_close(*both(rng, size, "float32", tables=tables), "float32")


@pytest.mark.few(0, thorough=3)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(
    "size",
    [
        (8, 5, 7, 2, 20, 3),  # one block
        (16, 2, 3, 2, 31, 35),  # two blocks; queries, keys and values together take two tiles of 128 channels
        (8, 13, 11, 1, 9, 2),  # 143 locations: copied 13 at a time
    ],
    ids=str,
)
def test_eight_images_side_by_side(rng, size, dtype):
    shape = Shape(*size[1:5], size[5], 1, 1, 1.0, True, jnp.dtype(dtype))
    assert _with_images(shape, size[0]).images == 8
    assert_close(*both(rng, size, dtype), dtype)


@pytest.mark.thorough
def test_eight_images_and_heads_one_by_one(rng):
    assert_close(*both(rng, (8, 33, 32, 2, 3, 2), "bfloat16"), "bfloat16")


@pytest.mark.thorough
def test_large_maps_in_bfloat16_and_two_heads(rng):
    assert_close(*both(rng, (1, 31, 37, 2, 20, 3), "bfloat16"), "bfloat16")


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(
    "size",
    [
        *((1, 32, 32, 8, 20, 2), (1, 16, 16, 8, 20, 4), (1, 8, 8, 8, 20, 8)),  # Wide-ResNet-28-10
        *((1, 28, 28, 8, 20, 3), (1, 14, 14, 8, 20, 3), (1, 7, 7, 8, 20, 6)),  # ResNet-50
        *((1, 40, 40, 8, 20, 3), (1, 80, 80, 1, 20, 3)),  # RetinaNet
    ],
    ids=str,
)
def test_at_each_benchmark_shape(rng, size, dtype):
    assert_close(*both(rng, size, dtype), dtype)


@pytest.mark.thorough
def test_the_same_gradients_in_every_run(rng):
    size = (3, 5, 7, 2, 20, 3)
    arrays = oracle.inputs(rng, *size)
    run = jax.jit(
        jax.grad(lambda *a: jnp.sum(ops.relative_attention_2d(*a, implementation="pallas_tpu_interpret") ** 2), (0, 3))
    )
    first, second = run(*arrays), run(*arrays)
    for one, other in zip(first, second, strict=True):
        np.testing.assert_array_equal(one, other)


def layer(implementation, **options):
    settings = dict(num_heads=2, key_depth=10, value_depth=6, spatial_shape=(5, 7), use_bias=True)
    model = AAConv2D(11, 16, 3, **{**settings, **options}, implementation=implementation, rngs=nnx.Rngs(0))
    for conv in (model.qkv, model.out):
        if conv.bias is not None:
            conv.bias[...] = jnp.linspace(-0.3, 0.4, conv.bias.shape[0])
    return model


def output_and_gradients(model, x, mesh=None):
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
    "options",
    [{}, {"use_bias": False}, {"position": "none"}, {"strides": 2, "spatial_shape": (3, 4)}],
    ids=["bias", "no_bias", "no_position", "strided"],
)
def test_the_layer_with_the_fused_branch_is_the_layer(rng, options):
    x = jnp.asarray(rng.normal(size=(2, 5, 7, 11)), jnp.float32)
    fused = output_and_gradients(layer("pallas_tpu_interpret", **options), x)
    plain = output_and_gradients(layer("reference", **options), x)
    assert len(fused) == len(plain)
    for ours, theirs in zip(fused, plain, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=3e-6, atol=3e-5)


@pytest.mark.few
@pytest.mark.parametrize("options", [{}, {"use_bias": False}, {"strides": 2, "spatial_shape": (3, 4)}])
def test_attention_in_the_convolutions_last_channels_is_the_concatenation(rng, options):
    x = jnp.asarray(rng.normal(size=(2, 5, 7, 11)), jnp.float32)
    concatenated = output_and_gradients(layer("folded", **options), x)
    with traced_for("tpu"):
        added = output_and_gradients(layer("folded", **options), x)
    for ours, theirs in zip(added, concatenated, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=3e-6, atol=3e-5)


@pytest.mark.few(0)
@pytest.mark.parametrize("batch", [8, 64])  # one image on a device, or eight side by side
def test_split_over_a_mesh_it_computes_the_same(rng, batch):
    x = jnp.asarray(rng.normal(size=(batch, 5, 7, 11)), jnp.float32)
    model = layer("pallas_tpu_interpret")
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    for ours, theirs in zip(output_and_gradients(model, x, mesh), output_and_gradients(model, x), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=3e-6, atol=3e-5)
    with pytest.raises(ValueError, match="data axis of 8; a batch of 3 does not divide"), jax.set_mesh(mesh):
        model(x[:3])


def test_flops_are_those_of_the_layer_whatever_runs():
    counts = []
    for implementation in ("folded", "pallas_tpu_interpret"):
        model = layer(implementation, use_bias=False)
        model.image_size, model.in_channels = (5, 7), 11
        found = summarize(model)
        counts.append((found.flops, found.paper_flops, found.by_module["qkv"].flops, found.by_module["out"].flops))
    assert counts[0] == counts[1]


@pytest.mark.usefixtures("unchecked_shapes")
def test_what_it_cannot_serve_is_said(rng):
    arrays = oracle.inputs(rng, 1, 2, 3, 1, 5, 3)
    with pytest.raises(RuntimeError, match="'pallas_tpu' runs on TPUs, and this program is traced for a cpu"):
        ops.relative_attention_2d(*arrays, implementation="pallas_tpu")
    half = [jnp.asarray(x, jnp.float16) for x in arrays]
    with pytest.raises(TypeError, match="bfloat16 or float32, got float16; use 'folded'"):
        ops.relative_attention_2d(*half, implementation="pallas_tpu_interpret")
    with pytest.raises(
        ValueError, match=r"needs about \d+ MiB of VMEM for a 200x200 map of 512 channels, and a TPU has 128"
    ):
        Shape(200, 200, 8, 20, 3, 512, 24, 1.0, True, jnp.dtype("bfloat16")).check()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"rel_height": (7, 5)}, r"rel_height must have shape \(9, 5\) for a 5x7 map"),
        ({"rel_height": None}, "both be given or both be None"),
        ({"rel_height": (13, 5), "rel_width": (9, 5)}, "rel_height must have shape"),
        ({"num_heads": 3}, "num_heads=3 must divide the value depth of 6"),
        ({"implementation": "folded"}, "must be one of 'pallas_tpu', 'pallas_tpu_interpret', got 'folded'"),
        ({"x": (0, 5, 7, 11)}, "none of them 0"),
        ({"qkv_kernel": (12, 26)}, "qkv_kernel must have 11 rows"),
    ],
    ids=str,
)
@pytest.mark.usefixtures("unchecked_shapes")
def test_arguments_of_the_branch_that_do_not_fit(change, words):
    shapes = {"x": (2, 5, 7, 11), "qkv_kernel": (11, 26), "qkv_bias": None, "out_kernel": (6, 6), "out_bias": None}
    shapes |= {"rel_height": (9, 5), "rel_width": (13, 5)}
    options = {"num_heads": 2, "implementation": "pallas_tpu_interpret"}
    options |= {name: change[name] for name in options if name in change}
    shapes |= {name: shape for name, shape in change.items() if name in shapes}
    arrays = [shape if shape is None else jnp.ones(shape) for shape in shapes.values()]
    with pytest.raises(ValueError, match=words):
        ops.attention_branch(*arrays, **options)


@pytest.mark.few(3)
@pytest.mark.parametrize("implementation", ["auto", "folded", "folded_pieces", "paper", "pallas_tpu_interpret"])
def test_a_mesh_whose_shardings_are_part_of_the_types(rng, implementation):
    """Only the forward pass runs, because JAX has no gradient of a convolution on such a mesh."""
    model = layer(implementation)
    x = jnp.asarray(rng.normal(size=(8, 5, 7, 11)), jnp.float32)
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Explicit,))
    with jax.set_mesh(mesh):
        y = model(jax.device_put(x, jax.NamedSharding(mesh, jax.P("data"))))
    np.testing.assert_allclose(y, model(x), rtol=3e-6, atol=3e-5)


def test_auto_takes_no_kernel_that_the_batch_or_the_chip_forbids(monkeypatch):
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    with jax.set_mesh(mesh), traced_for("tpu"):
        chosen = [choice.choose("bfloat16", 14, 14, 8, 20, 3, True, 256, batch) for batch in (8, 9)]
    assert chosen == ["pallas_tpu", "folded"]
    monkeypatch.setattr(choice, "target_device_kind", lambda: "TPU v4")
    with traced_for("tpu"):
        assert [choice.choose("bfloat16", side, side, 8, 20, 3, True, 256) for side in (40, 64)] == [
            "pallas_tpu",
            "folded_pieces",
        ]


def test_a_block_of_several_images_has_to_fit_the_chip():
    shape = Shape(40, 40, 8, 20, 3, 256, 24, 1.0, True, jnp.dtype("bfloat16"), images=8)
    assert [shape.fits(kind) for kind in ("TPU v4", "TPU v5p", "TPU v5 lite")] == [False, False, True]


def test_costs_count_the_products():
    shape = Shape(14, 14, 8, 20, 3, 256, 24, 1.0, True, jnp.dtype("bfloat16"))
    projections = 256 * 8 * 43 + 24 * 24
    logits_and_values = 8 * (196 * (20 + 28 + 3) + 2 * 27 * 20)
    assert shape.cost(2, backward=False) == (2 * 2 * 196 * (projections + logits_and_values), 2 * 8 * 196 * 196)
    flops, exponentials = shape.cost(2, backward=True)
    assert 2 < flops / shape.cost(2, backward=False)[0] < 4
    assert exponentials == 2 * 8 * 196 * 196
