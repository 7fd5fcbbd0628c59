"""Tests of calls without `train`, which have the mode that NNX's `train()` and `eval()` set."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from aa_flax.layers import BAM, AWConv2D
from aa_flax.layers.norm import BatchNorm
from aa_flax.models import create_model
from aa_flax.models.functional import functional

SMALL = {
    "bam_resnet18": dict(blocks=(1, 1, 1, 1)),
    "aw_aa_wide_resnet28_10": dict(depth=10, widen_factor=1, num_heads=2, upsilon=0.25, min_key_depth_per_head=3),
    "mnasnet_100": dict(width=0.25),
    "patchconvnet_s60": dict(width=8, depth=2, norm="batch"),
}
SIZE = (16, 32)


def build(name, **options):
    return create_model(name, num_classes=3, image_size=SIZE, in_channels=2, **SMALL[name], **options, rngs=nnx.Rngs(0))


@pytest.fixture
def images(rng):
    return jnp.asarray(rng.normal(1.0, 2.0, size=(4, *SIZE, 2)), jnp.float32)


def program(model, call=lambda model, images, **options: model(images, **options), **options):
    """Return the traced text of a call and its update of the batch statistics; equal texts are equal programs."""
    graph, state = nnx.split(model)

    def run(state, images, key):
        merged = nnx.merge(graph, state, copy=True)
        return call(merged, images, rngs=nnx.Rngs(key), **options), nnx.state(merged, nnx.BatchStat)

    return str(jax.make_jaxpr(run)(state, jnp.zeros((4, *SIZE, 2)), jax.random.key(0)))


@pytest.mark.few(0, thorough=3)
@pytest.mark.parametrize("name", SMALL)
def test_the_mode_holds_without_train_and_what_is_said_wins(name):
    model = nnx.eval_shape(lambda: build(name))
    trained, evaluated = (program(model, train=train) for train in (True, False))
    assert trained != evaluated
    assert program(model) == evaluated  # the first mode
    model.train()
    assert program(model) == program(nnx.merge(*nnx.split(model))) == trained
    assert program(model, train=False) == evaluated
    nnx.merge(*nnx.split(model), copy=True).eval()  # a copy does not change the module
    assert program(model) == trained
    model.eval()
    assert program(model) == evaluated and program(model, train=True) == trained


@pytest.mark.few
@pytest.mark.parametrize("name", SMALL)
def test_maps_in_training_have_stochastic_depth(name):
    def features(model, images, **options):
        return model.features(images, **options)

    model = nnx.eval_shape(lambda: build(name, drop_path_rate=0.5))
    trained = program(model, features, train=True)
    assert "random_bits" in trained and "random_bits" not in program(model, features)
    model.train()
    assert program(model, features) == trained
    evaluating = nnx.view(model, deterministic=True, use_running_average=True)
    assert program(evaluating, features) == program(model, features, train=False)


@pytest.mark.thorough
def test_values_of_both_modes(images):
    """A network and its pure function agree; the function has the mode that the network had when it was split."""
    options = dict(depth=10, widen_factor=1, in_channels=2, rngs=nnx.Rngs(0))
    model = create_model("wide_resnet28_10", **options)
    apply, params, stats = functional(model)
    model.train()
    apply_training, _, _ = functional(model)
    evaluated, same = jax.jit(apply)(params, stats, images)
    trained, after = jax.jit(apply_training)(params, stats, images)
    assert np.abs(trained - evaluated).max() > 1e-3
    jax.tree.map(np.testing.assert_array_equal, same, stats)
    assert np.abs(after["bn"]["mean"] - stats["bn"]["mean"]).max() > 1e-3
    assert apply(params, stats, images)[1] is apply_training(params, stats, images, train=False)[1] is stats
    np.testing.assert_allclose(nnx.jit(lambda m, x: m(x, train=False))(model, images), evaluated, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(nnx.jit(lambda m, x: m(x))(model, images), trained, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(model.bn.mean[...], after["bn"]["mean"], rtol=1e-4, atol=1e-5)


def test_a_part_may_be_in_another_mode(images):
    """The network trains while one stage keeps its running statistics, which is how NNX freezes batch norms."""
    model = create_model("wide_resnet28_10", depth=10, widen_factor=1, in_channels=2, rngs=nnx.Rngs(0))
    model.train()
    model.stage1.eval()
    apply, params, before = functional(model)
    _, after = jax.jit(apply)(params, before, images)
    jax.tree.map(np.testing.assert_array_equal, after["stage1"], before["stage1"])
    for part in ("bn", "stage2"):
        moved = [np.abs(a - b).max() for a, b in zip(*map(jax.tree.leaves, (after[part], before[part])), strict=True)]
        assert min(moved) > 0


def test_dropout_follows_the_mode(images):
    model = create_model(
        "wide_resnet28_10", depth=10, widen_factor=1, dropout_rate=0.5, in_channels=2, rngs=nnx.Rngs(0)
    )
    evaluated = model(images)
    np.testing.assert_array_equal(model(images, rngs=nnx.Rngs(1)), evaluated)
    model.train()
    with pytest.raises(ValueError, match="train=True with dropout needs rngs"):
        model(images)
    one, other = (model(images, rngs=nnx.Rngs(seed)) for seed in (1, 2))
    assert np.abs(one - other).max() > 1e-3


@pytest.mark.few
@pytest.mark.parametrize(
    "layer", [lambda **o: BAM(6, reduction=2, **o), lambda **o: AWConv2D(6, 4, 3, norm=later, **o)], ids=["BAM", "AW"]
)
def test_layers_alone(rng, layer):
    module = layer(rngs=nnx.Rngs(0))
    x = jnp.asarray(rng.normal(2.0, 3.0, size=(3, 5, 7, 6)), jnp.float32)
    evaluated = module(x, train=False)
    np.testing.assert_array_equal(module(x), evaluated)
    module.train()
    graph, state = nnx.split(module)
    trained = nnx.merge(graph, state, copy=True)(x, train=True)
    np.testing.assert_array_equal(nnx.merge(graph, state, copy=True)(x), trained)
    assert np.abs(trained - evaluated).max() > 1e-3


def later(features, **options):
    """Return a norm in training mode, as a user's factory may leave it."""
    return nnx.BatchNorm(features, use_running_average=False, momentum=0.9, epsilon=1e-5, **options)


def test_norms_of_the_users_own_start_in_evaluation(images):
    options = dict(depth=10, widen_factor=1, in_channels=2, rngs=nnx.Rngs(0))
    model = create_model("wide_resnet28_10", norm=later, **options)
    before = jax.tree.map(np.asarray, nnx.to_pure_dict(nnx.state(model, nnx.BatchStat)))
    model(images)
    jax.tree.map(np.testing.assert_array_equal, nnx.to_pure_dict(nnx.state(model, nnx.BatchStat)), before)


def test_a_call_wins_over_the_mode_of_a_norm_but_not_over_freezing(rng):
    x = jnp.asarray(rng.normal(3.0, 2.0, size=(5, 2)), jnp.float32)
    norm = BatchNorm(2, use_running_average=True, momentum=0.5, epsilon=1e-5, rngs=nnx.Rngs(0))
    np.testing.assert_allclose(norm(x), x / np.sqrt(1 + 1e-5), rtol=1e-6)
    np.testing.assert_allclose(norm(x, use_running_average=False).mean(0), 0, atol=1e-6)
    np.testing.assert_allclose(norm.mean[...], x.mean(0) / 2, rtol=1e-5)
    norm.frozen = True
    kept = np.asarray(norm.mean[...])
    norm(x, use_running_average=False)
    np.testing.assert_array_equal(norm.mean[...], kept)
