"""What a call without `train` does: the mode of the module, which NNX's `train()` and `eval()` set."""

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
EXACT = dict(rtol=1e-5, atol=1e-6)  # the same program, in another order where the compiler likes


def build(name, **options):
    return create_model(name, num_classes=3, image_size=SIZE, in_channels=2, **SMALL[name], **options, rngs=nnx.Rngs(0))


@pytest.fixture
def images(rng):
    return jnp.asarray(rng.normal(1.0, 2.0, size=(4, *SIZE, 2)), jnp.float32)


def called(graph, state, images, **options):
    """Logits and batch statistics after a call, compiled."""

    @jax.jit
    def call(state, images):
        model = nnx.merge(graph, state, copy=True)
        return model(images, **options), nnx.to_pure_dict(nnx.state(model, nnx.BatchStat))

    return call(state, images)


def close(one, other):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, **EXACT), one, other)


@pytest.mark.parametrize("name", SMALL)
def test_the_mode_holds_without_train_and_what_is_said_wins(name, images):
    model = build(name)
    trained, evaluated = (called(*nnx.split(model), images, train=train) for train in (True, False))
    assert np.abs(trained[0] - evaluated[0]).max() > 1e-3  # batch statistics are not the running ones here
    close(called(*nnx.split(model), images), evaluated)  # evaluation at first
    model.train()
    graph, state = nnx.split(model)
    close(called(graph, state, images), trained)
    close(called(graph, state, images, train=False), evaluated)
    nnx.merge(graph, state).eval()  # of a copy of the graph
    model.eval()
    close(called(*nnx.split(model), images), evaluated)
    close(called(*nnx.split(model), images, train=True), trained)


def test_a_pure_function_has_the_mode_of_its_model(images):
    model = build("mnasnet_100")
    apply, params, stats = functional(model)
    model.train()
    apply_training, _, _ = functional(model)
    evaluated, same = jax.jit(apply)(params, stats, images)
    trained, after = jax.jit(apply_training)(params, stats, images)
    close(evaluated, apply(params, stats, images, train=False)[0])
    close((trained, after), jax.jit(lambda *a: apply(*a, train=True))(params, stats, images))
    jax.tree.map(np.testing.assert_array_equal, same, stats)
    assert np.abs(after["stem_bn"]["mean"] - stats["stem_bn"]["mean"]).max() > 1e-3
    assert apply_training(params, stats, images, train=False)[1] is stats


def test_a_part_may_be_in_another_mode(images):
    """As batch norms are frozen in NNX: the whole trains, one stage keeps its running statistics."""
    model = build("bam_resnet18")
    model.train()
    model.stage1.eval()
    before = nnx.to_pure_dict(nnx.state(model, nnx.BatchStat))
    _, after = called(*nnx.split(model), images)
    jax.tree.map(np.testing.assert_array_equal, after["stage1"], before["stage1"])
    for part in ("bn", "attention1", "stage2"):
        moved = [np.abs(a - b).max() for a, b in zip(*map(jax.tree.leaves, (after[part], before[part])), strict=True)]
        assert min(moved) > 0


@pytest.mark.parametrize("name", ["bam_resnet18", "mnasnet_100", "patchconvnet_s60"])
def test_stochastic_depth_follows_the_mode(name, images):
    model = build(name, drop_path_rate=0.5, drop_path_rule="constant")
    stage = next(iter(model.feature_info))
    model.train()
    for call in (model, model.features):
        with pytest.raises(ValueError, match=r"train=True with drop path needs rngs, for example rngs=nnx.Rngs\(0\)"):
            call(images)
    drawn = [model.features(images, rngs=nnx.Rngs(seed))[stage] for seed in (0, 0, 1)]
    np.testing.assert_array_equal(drawn[0], drawn[1])
    assert np.abs(drawn[0] - drawn[2]).max() > 1e-3
    evaluating = nnx.view(model, deterministic=True, use_running_average=True)
    np.testing.assert_array_equal(evaluating.features(images)[stage], model.features(images, train=False)[stage])


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
    """A norm that its maker left in training."""
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
