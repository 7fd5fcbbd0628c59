"""Tests of networks with AW-convolutions: where the layers are, what they add, and a start as the plain network."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from aa_flax.layers import AAConv2D, AWConv2D
from aa_flax.models import create_model
from aa_flax.training import functional
from aa_flax.weights import init_from_plain
from aa_flax.weights.arrays import flat_arrays


def shapes(name, **options):
    return nnx.eval_shape(lambda: create_model(name, rngs=nnx.Rngs(0), **options))


def count(name, **options):
    return sum(leaf.size for leaf in jax.tree.leaves(nnx.state(shapes(name, **options), nnx.Param)))


@pytest.mark.few
@pytest.mark.usefixtures("unchecked_shapes")  # a third faster on networks of this size
@pytest.mark.parametrize(("depth", "added"), [(50, 161_432), (101, 305_592)])
def test_what_the_layer_adds(depth, added):
    """Layers add 157,184 and 296,448 weights (2 C²/16 each), and the batch norm and the bias of the gate."""
    plain, weighted = shapes(f"resnet{depth}"), shapes(f"aw_resnet{depth}")
    sizes = [sum(leaf.size for leaf in jax.tree.leaves(nnx.state(m, nnx.Param))) for m in (plain, weighted)]
    assert sizes[1] - sizes[0] == added
    layers = [m for _, m in nnx.iter_modules(weighted) if isinstance(m, AWConv2D)]
    weights = sum(m.squeeze.kernel.size + m.excite.kernel.size for m in layers)
    assert weights == {50: 157_184, 101: 296_448}[depth]
    assert all(m.kernel_size == 3 for m in layers) and isinstance(weighted.stem, nnx.Conv)
    assert len(layers) == sum(
        len([n for n in vars(getattr(plain, f"stage{i}")) if n[5:].isdigit()]) for i in (1, 2, 3, 4)
    )


@pytest.mark.few
@pytest.mark.parametrize("kind", ["se_", "cbam_", "ge_", "bam_"])
def test_the_other_module_stays_where_it_was(kind):
    """The gates add the same number of parameters with and without the other module."""
    few = dict(blocks=(1, 1, 1, 1))
    alone = count("aw_resnet50", **few) - count("resnet50", **few)
    assert count(f"aw_{kind}resnet50", **few) - count(f"{kind}resnet50", **few) == alone > 0


def test_aw_in_the_convolution_branch_of_aa():
    model = shapes("aw_aa_resnet50")
    augmented = model.stage3.block2.conv2
    assert isinstance(augmented, AAConv2D) and isinstance(augmented.conv, AWConv2D)
    assert augmented.conv.out_features == augmented.out_features - augmented.value_depth == 256 - 24
    assert isinstance(model.stage1.block1.conv2, AWConv2D)  # attention begins in stage 2


@pytest.mark.thorough
def test_placement():
    """AW-convolutions are both 3×3 of basic blocks, and the depthwise convolutions of MnasNet."""
    basic = shapes("aw_se_resnet18").stage2.block1
    assert isinstance(basic.conv1, AWConv2D) and isinstance(basic.conv2, AWConv2D) and basic.conv1.strides == 2
    wide = shapes("aw_wide_resnet28_10", depth=10, widen_factor=1).stage1.block1
    assert isinstance(wide.conv1, AWConv2D) and isinstance(wide.conv2, AWConv2D)
    mobile = shapes("aw_mnasnet_100").stage3.block1
    assert (
        isinstance(mobile.depthwise, AWConv2D) and mobile.depthwise.groups == 72 and mobile.depthwise.kernel_size == 5
    )
    assert isinstance(mobile.expand, nnx.Conv)


def test_options_of_the_layer():
    layer = shapes("aw_se_resnet50", aw_reduction=4, aw_variant="outer", aw_residual=False, reduction=8).stage1.block1
    assert layer.conv2.squeeze.kernel.shape == (64, 16) and layer.conv2.variant == "outer" and not layer.conv2.residual
    assert layer.recalibration.squeeze.kernel.shape == (256, 32)


@pytest.mark.few(0, thorough=1)
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_a_network_can_start_as_the_plain_one(rng, dtype):
    """Gates of scale zero leave the kernels equal bit for bit, and the logits equal except for the order of sums."""
    options = dict(depth=10, widen_factor=1, num_classes=7, image_size=(8, 10), dtype=dtype)
    plain = create_model("wide_resnet28_10", rngs=nnx.Rngs(0), **options)
    for _, module in nnx.iter_modules(plain):
        if isinstance(module, nnx.BatchNorm):
            module.mean[...] = jnp.asarray(rng.normal(0, 0.1, module.mean.shape), jnp.float32)
    weighted = create_model("aw_wide_resnet28_10", aw_gate_scale=0.0, rngs=nnx.Rngs(1), **options)
    report = init_from_plain(weighted, flat_arrays(plain), source="aa_flax")
    assert all(
        ".squeeze." in path or ".bn." in path or ".excite." in path or path.endswith("gate_scale")
        for path in report.new
    )
    assert not report.unused and not report.partial
    x = jnp.asarray(rng.normal(size=(2, 8, 10, 3)), dtype)
    logits = []
    for model in (plain, weighted):
        apply, params, stats = functional(model)
        logits.append(np.asarray(jax.jit(lambda p, s, x, f=apply: f(p, s, x)[0])(params, stats, x), np.float32))
    error = np.abs(logits[0] - logits[1]).max() / np.abs(logits[0]).max()
    assert error <= (1e-6 if dtype == jnp.float32 else 0.02)


@pytest.mark.thorough
def test_a_training_step_of_the_gates(rng):
    """Every parameter of AW-AA in basic blocks gets a finite gradient, and all batch statistics change."""
    options = dict(
        kind="basic", blocks=(1, 1, 1, 1), num_classes=3, image_size=(32, 32), num_heads=2, attention_stages=(4,)
    )
    apply, params, stats = functional(create_model("aw_aa_resnet18", rngs=nnx.Rngs(0), **options))
    x = jnp.asarray(rng.normal(size=(2, 32, 32, 3)), jnp.float32)

    @jax.jit
    @functools.partial(jax.value_and_grad, has_aux=True)
    def moved(params):
        logits, after = apply(params, stats, x, train=True)
        change = jax.tree.map(lambda a, b: jnp.abs(a - b).max(), after, stats)
        least = jnp.min(jnp.stack(jax.tree.leaves(change)))
        return (logits**2).sum(), least

    (_, least), gradients = moved(params)
    assert least > 0, "some batch statistics did not move"
    for path, gradient in jax.tree.leaves_with_path(gradients):
        assert np.isfinite(gradient).all(), path


def test_gates_that_the_weights_have_are_taken():
    """Gates are taken over to a network with another number of classes and with a gate scale, which is new."""
    options = dict(depth=10, widen_factor=1, image_size=(8, 10))
    trained = create_model("aw_wide_resnet28_10", num_classes=7, rngs=nnx.Rngs(0), **options)
    model = create_model("aw_wide_resnet28_10", num_classes=3, aw_gate_scale=1.0, rngs=nnx.Rngs(1), **options)
    report = init_from_plain(model, flat_arrays(trained), source="aa_flax")
    assert all(path.startswith("head.") or path.endswith("gate_scale") for path in report.new) and not report.partial
    gates = [m.stage1.block1.conv1.excite.kernel[...] for m in (trained, model)]
    np.testing.assert_array_equal(*gates)
