"""Tests of networks under settings of JAX: strict dtypes, guarded transfers, explicit meshes, symbolic shapes.

The shape checker is off: it knows no symbols, and its errors would hide those of JAX.
"""

import functools
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from aa_flax import layers
from aa_flax.models import create_model
from aa_flax.ops.pieces import Budget
from aa_flax.ops.platform import traced_for
from aa_flax.training import functional

pytestmark = pytest.mark.usefixtures("unchecked_shapes")

ATTENTION = dict(num_heads=2, kappa=0.5, upsilon=0.25, min_key_depth_per_head=3, spatial_shape=(5, 3))
BLOCKS = dict(blocks=(1, 1, 1, 1))
WIDE = dict(depth=10, widen_factor=1)
ATTENDING = dict(num_heads=2, upsilon=0.25)
PATCHES = dict(width=8, depth=2, image_size=(32, 48))
NETWORKS = {
    "aa_wide_resnet28_10": {**WIDE, **ATTENDING, "dropout_rate": 0.1},
    "aw_resnet18": BLOCKS,
    "patchconvnet_s60": {**PATCHES, "drop_path_rate": 0.1},
    "aa_mnasnet_075": dict(width=0.5, dropout_rate=0.1),
    "aa_resnet18": {**BLOCKS, "pooling": "attention", "drop_path_rate": 0.1},
    "fully_attentional_resnet50": BLOCKS,
    "aw_aa_wide_resnet28_10": {**WIDE, **ATTENDING},
    "patchconvnet_s60_multi": {**PATCHES, "norm": "batch"},
    "wide_resnet28_10": {**WIDE, "long_skips": True, "shortcut": "projection", "drop_path_rate": 0.1},
    "aw_mnasnet_075": dict(width=0.5),
    **{f"{prefix}_resnet18": BLOCKS for prefix in ("bam", "cbam", "gala", "ge", "se")},
}
"""A network of each family and with each kind of layer."""


@functools.cache
def network(name, **options):
    """Return the function of a network of five classes, and the shapes of its parameters, statistics and images."""
    options = {"num_classes": 5, "image_size": (33, 50), **NETWORKS[name], **options}
    model = nnx.eval_shape(lambda: create_model(name, **options, rngs=nnx.Rngs(0)))
    apply, *variables = functional(model)
    return apply, *variables, (*model.image_size, 3)


def weighted_conv(*arguments, **options):
    return layers.AWConv2D(*arguments, reduction=4, gate_scale=0.5, use_bias=True, **options)


ALONE = {
    **{
        name: functools.partial(layers.AAConv2D, 8, 16, 3, implementation=name, **ATTENTION)
        for name in ("folded", "folded_pieces", "pallas_gpu_interpret", "pallas_tpu_interpret", "paper", "reference")
    },
    "coordconv": functools.partial(layers.AAConv2D, 8, 16, 3, position="coordconv", use_bias=True, **ATTENTION),
    "sine": functools.partial(layers.AAConv2D, 8, 16, 3, position="sine", strides=2, **ATTENTION),
    **{
        f"aw_{form}": functools.partial(weighted_conv, 8, 16, 3, implementation=form)
        for form in ("fold", "tap", "loop")
    },
    "aw_full": functools.partial(weighted_conv, 8, 16, 3, variant="full"),
    "aw_outer": functools.partial(weighted_conv, 8, 16, 3, variant="outer"),
    "one_token": functools.partial(layers.AttentionPooling, 8, width=6),
    "three_tokens": functools.partial(layers.AttentionPooling, 8, tokens=3),
    "bam": functools.partial(layers.BAM, 8),
    "cbam": functools.partial(layers.CBAM, 8),
    "gala": functools.partial(layers.GALA, 8, extra_conv=True),
    "ge": functools.partial(layers.GatherExcite, 8, variant="theta_plus", map_shape=(5, 3)),
    "se": functools.partial(layers.SqueezeExcite, 8),
}
"""Each layer, and each way in which it is computed."""


@pytest.fixture
def few_pieces(monkeypatch):
    """Cut attention into pieces on small maps too."""
    monkeypatch.setattr(sys.modules["aa_flax.ops.folded_pieces"], "budget", lambda: Budget(0, 500))


def layer(name, **options):
    """Return the function (state, x) of a layer, and its state."""
    graph, state = nnx.split(ALONE[name](**options, rngs=nnx.Rngs(0)))
    return lambda state, x: nnx.merge(graph, state, copy=True)(x), nnx.to_pure_dict(state)


@pytest.mark.few(1, thorough=9)
@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize(("dtype", "param_dtype"), [("bfloat16", "float32"), ("float16", "float16")])
def test_a_network_in_16_bits_promotes_no_dtype(few_pieces, name, dtype, param_dtype):
    with jax.numpy_dtype_promotion("strict"):
        apply, params, stats, image = network(name, dtype=dtype, param_dtype=param_dtype)

        def loss(params, stats, images):
            logits, stats = apply(params, stats, images, train=True, rngs=jax.random.key(0))
            return jnp.square(logits.astype(jnp.float32)).sum(), stats

        images = jax.ShapeDtypeStruct((2, *image), dtype)
        gradients, _ = jax.eval_shape(jax.grad(loss, has_aux=True), params, stats, images)
        assert {leaf.dtype for leaf in jax.tree.leaves(gradients)} == {jnp.dtype(param_dtype)}
        logits, _ = jax.eval_shape(apply, params, stats, jax.ShapeDtypeStruct((2, *image), "float32"))
        assert logits.dtype == dtype


@pytest.mark.few(6, thorough=36)
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("given", ["float32", None])
@pytest.mark.parametrize("name", sorted(ALONE, key=lambda name: name not in ("cbam", "gala", "ge", "se")))
def test_a_layer_in_16_bits_promotes_no_dtype(few_pieces, name, dtype, given):
    if (name, dtype) == ("pallas_tpu_interpret", "float16"):
        pytest.skip("the kernel for TPUs does not take float16")
    with jax.numpy_dtype_promotion("strict"):
        call, state = layer(name, dtype=dtype)
        x = jax.ShapeDtypeStruct((2, 5, 3, 8), given or dtype)
        jax.eval_shape(jax.grad(lambda state, x: call(state, x).astype(jnp.float32).sum()), state, x)


@pytest.mark.few(1, thorough=8)
@pytest.mark.parametrize("name", ALONE)
def test_a_layer_transfers_nothing_from_the_host(few_pieces, name):
    call, state = layer(name)
    x = jnp.ones((2, 5, 3, 8))
    with jax.transfer_guard("disallow"):
        gradients = jax.jit(jax.grad(lambda state, x: jnp.square(call(state, x)).sum()))(state, x)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradients))


def explicit_mesh():
    return jax.make_mesh((4,), ("data",), axis_types=(AxisType.Explicit,), devices=jax.devices()[:4])


@pytest.mark.few(3, thorough=24)
@pytest.mark.parametrize("name", sorted(ALONE, key=lambda name: name not in ("one_token", "aw_fold", "folded_pieces")))
@pytest.mark.parametrize("spec", [PartitionSpec("data"), PartitionSpec()], ids=["split", "whole"])
def test_a_layer_runs_on_a_mesh_whose_shardings_are_part_of_the_types(rng, few_pieces, name, spec):
    call, state = layer(name)
    x = jnp.asarray(rng.normal(size=(4, 5, 3, 8)), jnp.float32)
    expected = jax.jit(call)(state, x)
    with jax.set_mesh(mesh := explicit_mesh()):
        placed = jax.device_put(x, NamedSharding(mesh, spec))
        found = jax.jit(call)(jax.device_put(state, NamedSharding(mesh, PartitionSpec())), placed)
    assert jax.typeof(found).sharding.spec[0] == (spec[0] if spec else None)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.few(1, thorough=15)
@pytest.mark.parametrize("name", sorted(NETWORKS, key=lambda name: "patchconvnet" not in name))
@pytest.mark.parametrize("train", [False, True])
def test_a_network_is_traced_on_such_a_mesh(name, train):
    apply, params, stats, image = network(name)
    with jax.set_mesh(mesh := explicit_mesh()):

        def placed(shape, *axes):
            return jax.ShapeDtypeStruct(shape, jnp.float32, sharding=NamedSharding(mesh, PartitionSpec(*axes)))

        variables = jax.tree.map(lambda leaf: placed(leaf.shape), (params, stats))
        run = jax.jit(lambda params, stats, images: apply(params, stats, images, train=train, rngs=jax.random.key(0)))
        logits, _ = run.trace(*variables, placed((8, *image), "data")).out_info
    assert logits.shape == (8, 5)


def exported(name, shape, platform="cpu"):
    apply, params, stats, image = network(name)
    images = jax.ShapeDtypeStruct(jax.export.symbolic_shape(shape.format(*image)), jnp.float32)
    with traced_for("gpu" if platform == "cuda" else platform):
        run = jax.jit(lambda params, stats, images: apply(params, stats, images)[0])
        return jax.export.export(run, platforms=[platform])(params, stats, images)


@pytest.mark.few(2, thorough=11)
@pytest.mark.parametrize("name", sorted(NETWORKS, key=lambda name: name not in ("aw_resnet18", "aa_resnet18")))
@pytest.mark.parametrize("platform", ["cpu", "tpu", "cuda"])
def test_a_batch_may_be_a_symbol(name, platform):
    (logits,) = exported(name, "b, {0}, {1}, 3", platform).out_avals
    assert str(logits.shape) == "(b, 5)"


@pytest.mark.few
@pytest.mark.parametrize("implementation", ["folded_pieces", "folded"])
def test_attention_of_a_symbolic_batch_is_that_of_each_number(rng, few_pieces, implementation):
    call, state = layer(implementation)
    x = jnp.asarray(rng.normal(size=(3, 5, 3, 8)), jnp.float32)
    symbolic = jax.ShapeDtypeStruct(jax.export.symbolic_shape("b, 5, 3, 8"), jnp.float32)
    shapes = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), state)
    run = jax.export.export(jax.jit(call))(shapes, symbolic)
    for batch in (1, 3):
        expected = jax.jit(call)(state, x[:batch])
        np.testing.assert_allclose(run.call(state, x[:batch]), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.few(4)
@pytest.mark.parametrize("name", ["aa_wide_resnet28_10", "aw_resnet18", "aw_mnasnet_075", "patchconvnet_s60"])
@pytest.mark.parametrize("shape", ["2, h, w, 3", "b, 16*h, {1}, 3", "b, {0}, w, 3"])
def test_a_height_or_width_may_not(name, shape):
    with pytest.raises(
        ValueError, match="images may have a symbolic batch, but their height and width must be numbers"
    ):
        exported(name, shape)


@pytest.mark.parametrize("name", ["pallas_gpu_interpret", "pallas_tpu_interpret", "aw_fold", "aw_loop"])
def test_what_takes_no_symbolic_batch_says_so(name):
    call, state = layer(name)
    symbolic = jax.ShapeDtypeStruct(jax.export.symbolic_shape("b, 5, 3, 8"), jnp.float32)
    with pytest.raises(ValueError, match=r"symbol\w* b"):
        jax.export.export(jax.jit(call))(state, symbolic)
