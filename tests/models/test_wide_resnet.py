import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from aa_flax.models.wide_resnet import parameter_free_shortcut
from aa_flax.ops.platform import traced_for
from aa_flax.training import functional

KINDS = ["", "se_", "ge_", "aa_"]


def forward(model, x):
    apply, params, batch_stats = functional(model)
    return jax.jit(lambda p, s, x: apply(p, s, x)[0])(params, batch_stats, x)


def images(rng, *shape):
    return jnp.asarray(rng.normal(size=shape), jnp.float32)


@pytest.mark.few
@pytest.mark.parametrize("kind", KINDS)
def test_logits_features_and_their_description_agree(rng, tiny, kind):
    model = tiny(kind)
    x = images(rng, 3, 8, 10, 2)
    assert forward(model, x).shape == (3, 7)
    graph, state = nnx.split(model)
    features = jax.jit(lambda s, x: nnx.merge(graph, s, copy=True).features(x))(state, x)
    assert set(features) == {"stage1", "stage2", "stage3"} == set(model.feature_info)
    for name, info in model.feature_info.items():
        assert features[name].shape == (3, -(-8 // info.stride), -(-10 // info.stride), info.channels)
    pooled = np.asarray(features["stage3"]).mean((1, 2))
    logits = pooled @ np.asarray(model.head.kernel[...]) + np.asarray(model.head.bias[...])
    np.testing.assert_allclose(forward(model, x), logits, rtol=1e-4, atol=1e-5)


def batch_norm(x, p, stats):
    return (x - stats["mean"]) / np.sqrt(stats["var"] + 1e-5) * p["scale"] + p["bias"]


def conv(x, kernel, stride=1):
    pad = (kernel.shape[0] - 1) // 2
    return np.asarray(
        jax.lax.conv_general_dilated(
            x, kernel, (stride, stride), [(pad, pad)] * 2, dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
    )


def test_plain_network_equals_its_definition(rng, tiny):
    """The definition is a pre-activated WRN-10-1 in NumPy, written out from its parameters."""
    model = tiny("")
    _, p, stats = functional(model)
    random = lambda s: jax.tree.map(lambda v: jnp.asarray(rng.uniform(0.5, 1.5, v.shape), jnp.float32), s)  # noqa: E731
    stats = random(stats)
    nnx.update(model, stats)
    p, stats = jax.tree.map(np.asarray, (p, stats))
    x = images(rng, 2, 7, 5, 2)
    y = conv(np.asarray(x), p["stem"]["kernel"])
    for stage, stride in (("stage1", 1), ("stage2", 2), ("stage3", 2)):
        b, s = p[stage]["block1"], stats[stage]["block1"]
        branch = np.maximum(batch_norm(y, b["bn1"], s["bn1"]), 0)
        branch = conv(branch, b["conv1"]["kernel"], stride)
        branch = conv(np.maximum(batch_norm(branch, b["bn2"], s["bn2"]), 0), b["conv2"]["kernel"])
        y = branch + np.asarray(parameter_free_shortcut(jnp.asarray(y), stride, branch.shape[-1]))
    y = np.maximum(batch_norm(y, p["bn"], stats["bn"]), 0).mean((1, 2))
    expected = y @ p["head"]["kernel"] + p["head"]["bias"]
    np.testing.assert_allclose(forward(model, x), expected, rtol=1e-4, atol=1e-4)


def test_parameter_free_shortcut_pools_and_pads_on_both_sides(rng):
    x = images(rng, 1, 5, 4, 2)
    y = np.asarray(parameter_free_shortcut(x, 2, 5))
    assert y.shape == (1, 3, 2, 5)
    np.testing.assert_array_equal(y[..., [0, 3, 4]], 0)
    np.testing.assert_allclose(y[0, 0, 0, 1:3], np.asarray(x)[0, :2, :2].mean((0, 1)), rtol=1e-6)
    np.testing.assert_allclose(y[0, 2, 1, 1:3], np.asarray(x)[0, 4:, 2:].mean((0, 1)), rtol=1e-6)


@pytest.mark.few
@pytest.mark.parametrize("kind", KINDS)
def test_every_parameter_gets_a_finite_gradient(rng, tiny, kind):
    apply, params, batch_stats = functional(tiny(kind))
    x = images(rng, 5, 8, 10, 2)

    def loss(params):
        logits, _ = apply(params, batch_stats, x, train=True)
        return -jax.nn.log_softmax(logits)[:, 3].mean()

    gradients = jax.jit(jax.grad(loss))(params)
    for path, gradient in jax.tree_util.tree_leaves_with_path(gradients):
        assert np.isfinite(gradient).all(), path
        assert np.abs(gradient).max() > 0, path


@pytest.mark.thorough
def test_eager_training_updates_batch_norm_in_place_and_functional_does_not(rng, tiny):
    model = tiny("aa_")
    apply, params, batch_stats = functional(model)
    x = images(rng, 4, 8, 10, 2)
    before = np.asarray(model.bn.mean[...])
    logits, updated = apply(params, batch_stats, x, train=True)
    np.testing.assert_array_equal(model.bn.mean[...], before)
    eager = model(x, train=True)
    np.testing.assert_allclose(eager, logits, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(model.bn.mean[...], updated["bn"]["mean"], rtol=1e-4, atol=1e-6)
    assert np.abs(np.asarray(model.bn.mean[...]) - before).max() > 1e-4
    _, same = apply(params, batch_stats, x)
    assert same is batch_stats


def test_parameter_paths_are_checkpoint_keys(tiny):
    _, params, batch_stats = functional(tiny("aa_"))
    block = {"bn1": {"bias", "scale"}, "bn2": {"bias", "scale"}, "conv2": {"kernel"}}
    assert set(params) == {"stem", "stage1", "stage2", "stage3", "bn", "head"}
    for stage in ("stage1", "stage2", "stage3"):
        assert set(params[stage]) == {"block1"}
        for name, leaves in block.items():
            assert set(params[stage]["block1"][name]) == leaves
        assert set(params[stage]["block1"]["conv1"]) == {"conv", "qkv", "out", "rel_height", "rel_width"}
    assert set(batch_stats["stage1"]["block1"]["bn1"]) == {"mean", "var"}


@pytest.mark.thorough
def test_dropout_needs_rngs_and_only_in_training(rng, tiny):
    model = tiny("", dropout_rate=0.5)
    apply, params, batch_stats = functional(model)
    x = images(rng, 2, 8, 10, 2)
    with pytest.raises(ValueError, match="train=True with dropout needs rngs"):
        model(x, train=True)
    one, _ = apply(params, batch_stats, x, train=True, rngs=jax.random.key(1))
    again, _ = apply(params, batch_stats, x, train=True, rngs=jax.random.key(1))
    other, _ = apply(params, batch_stats, x, train=True, rngs=jax.random.key(2))
    np.testing.assert_array_equal(one, again)
    assert np.abs(one - other).max() > 1e-3
    assert not any(isinstance(v, nnx.RngState) for _, v in nnx.iter_graph(model))


@pytest.mark.parametrize("changes", [{"shortcut": "projection"}, {"long_skips": True}], ids=str)
def test_other_shortcuts(rng, tiny, changes):
    x = images(rng, 2, 7, 5, 2)
    plain, other = tiny(""), tiny("", **changes)
    assert forward(other, x).shape == (2, 7)
    count = lambda m: sum(v.size for v in jax.tree.leaves(nnx.state(m, nnx.Param)))  # noqa: E731
    extra = 16 * 32 + 32 * 64 if "shortcut" in changes else 0
    assert count(other) - count(plain) == extra


@pytest.mark.thorough
def test_any_image_size_serves(rng, tiny):
    model = tiny("aa_")
    for size in ((8, 10), (5, 3), (17, 12)):
        assert np.isfinite(forward(model, images(rng, 1, *size, 2))).all()


@pytest.mark.few(0, thorough=1)
@pytest.mark.parametrize("train", [True, False])
def test_recomputed_activations_change_nothing(rng, tiny, train):
    apply, params, stats = functional(tiny("aa_", implementation="folded"))
    x = images(rng, 2, 8, 10, 2)

    def loss(params):
        logits, new_stats = apply(params, stats, x, train=train)
        return jnp.sum(jnp.sin(logits)), new_stats

    def run():
        return jax.jit(jax.value_and_grad(loss, has_aux=True))(params)

    kept = run()
    with traced_for("tpu"):
        assert "remat" in str(jax.make_jaxpr(jax.grad(loss, has_aux=True))(params))
        recomputed = run()
    for ours, theirs in zip(jax.tree.leaves(recomputed), jax.tree.leaves(kept), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=2e-4)  # one-pass variances, summed in another order
