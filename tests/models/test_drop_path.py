"""Tests of stochastic depth as an option of the residual networks."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from aa_flax.layers import drop_path, drop_path_rates
from aa_flax.models import create_model
from aa_flax.training import functional

SMALL = {
    "resnet18": dict(blocks=(1, 2, 1, 1)),
    "resnet50": dict(blocks=(1, 1, 1, 2)),
    "se_wide_resnet28_10": dict(depth=10, widen_factor=1, reduction=4),
    "mnasnet_100": dict(width=0.25),
}
COUNTS = {"resnet18": 5, "resnet50": 5, "se_wide_resnet28_10": 3, "mnasnet_100": 16}
NAMES = sorted(SMALL)


def build(name, **options):
    return create_model(name, num_classes=3, in_channels=2, **SMALL[name], **options, rngs=nnx.Rngs(0))


def blocks(model):
    """Return the residual blocks in the order in which images pass them."""
    stages = [getattr(model, name) for name in model.feature_info]
    return [getattr(stage, f"block{i + 1}") for stage in stages for i in range(stage.blocks)]


@pytest.fixture
def images(rng):
    return jnp.asarray(rng.normal(size=(4, 16, 24, 2)), jnp.float32)


@pytest.mark.few
@pytest.mark.parametrize("name", NAMES)
def test_rates_of_the_blocks(name):
    for rule in ("linear", "constant"):
        model = nnx.eval_shape(lambda rule=rule: build(name, drop_path_rate=0.3, drop_path_rule=rule))
        rates = [block.drop_path_rate for block in blocks(model)]
        assert rates == list(drop_path_rates(0.3, COUNTS[name], rule))
    with pytest.raises(ValueError, match=r"drop_path_rate must lie in \[0, 1\), got 1.0"):
        build(name, drop_path_rate=1.0)


@pytest.mark.usefixtures("unchecked_shapes")
@pytest.mark.parametrize("name", NAMES)
def test_rngs_are_asked_for_before_anything_changes(name, images):
    model = build(name, drop_path_rate=0.3)
    before = jax.tree.map(np.asarray, nnx.to_pure_dict(nnx.state(model)))
    for call in (model, model.features):
        with pytest.raises(ValueError, match=r"train=True with drop path needs rngs, for example rngs=nnx.Rngs\(0\)"):
            call(images, train=True)
        for rngs in (jax.random.key(0), 0, nnx.Rngs(params=0)):
            with pytest.raises(TypeError, match="needs rngs with a stream 'dropout', .* (of type|have params)"):
                call(images, train=True, rngs=rngs)
    jax.tree.map(np.testing.assert_array_equal, before, nnx.to_pure_dict(nnx.state(model)))


@pytest.mark.thorough
@pytest.mark.parametrize("name", NAMES)
def test_evaluation_and_a_rate_of_zero_are_the_same_programs(name, images):
    """Evaluation at any rate and training at rate 0 lower to the same text as without drop path."""

    def programs(rate, train):
        model = build(name, **rate)
        apply, params, stats = functional(model)
        call = jax.jit(functools.partial(apply, train=train)).lower(params, stats, images)
        return call.as_text(), jax.tree.structure((params, stats))

    for train, rates in ((False, ({}, {"drop_path_rate": 0.9})), (True, ({}, {"drop_path_rate": 0.0}))):
        one, other = (programs(rate, train) for rate in rates)
        assert one == other and "threefry" not in one[0]


@pytest.mark.few(0)
@pytest.mark.parametrize("name", NAMES)
def test_each_block_drops_its_own_branch(name, images, monkeypatch):
    """Ones replace each branch, so that the compiler removes the network before it and the masks remain."""
    model = build(name, drop_path_rate=0.5, drop_path_rule="constant")
    apply, params, stats = functional(model)

    def survivors(params, images, key):
        seen = []

        def record(branch, rate, *, train, rngs):
            assert rate == 0.5
            seen.append(drop_path(jnp.ones((branch.shape[0], 1)), rate, train=train, rngs=rngs)[:, 0])
            return branch

        for module in ("resnet", "wide_resnet", "mnasnet"):
            monkeypatch.setattr(f"aa_flax.models.{module}.drop_path", record)
        apply(params, stats, images, train=True, rngs=key)
        return jnp.stack(seen)

    masks = np.asarray(jax.jit(survivors)(params, jnp.tile(images, (16, 1, 1, 1)), jax.random.key(1)))
    assert len(masks) == sum(getattr(block, "adds", True) for block in blocks(model)) >= 3
    assert len(np.unique(masks, axis=0)) == len(masks)
    assert np.unique(masks).tolist() == [0.0, 2.0]


@pytest.mark.thorough
def test_a_dropped_block_is_its_shortcut(images):
    """At a rate near 1 every branch of a Wide-ResNet is dropped; the maps are those of the stem, pooled and padded."""
    from aa_flax.models.wide_resnet import parameter_free_shortcut

    model = create_model(
        "wide_resnet28_10", in_channels=2, depth=10, widen_factor=2, drop_path_rate=1 - 1e-7, drop_path_rule="constant",
        rngs=nnx.Rngs(0),
    )  # fmt: skip
    x = model.stem(images)
    for stage, strides in ((model.stage1, 1), (model.stage2, 2)):
        expected = parameter_free_shortcut(x, strides, x.shape[-1] * 2)
        x = stage(x, train=True, rngs=nnx.Rngs(0))
        np.testing.assert_allclose(x, expected, rtol=1e-6)


@pytest.mark.few(2)
@pytest.mark.parametrize("name", NAMES)
def test_a_key_serves_inside_of_a_trace(name, images):
    apply, params, stats = functional(build(name, drop_path_rate=0.2))
    key = jax.random.key(2)
    logits, after = jax.eval_shape(lambda p: apply(p, stats, images, train=True, rngs=key), params)
    assert logits.shape == (4, 3) and jax.tree.structure(after) == jax.tree.structure(stats)
