"""Tests of Wide-ResNets of signals and volumes: padding that nothing sees, shapes, and what only images have."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from aa_flax.analysis import attention_maps, summarize
from aa_flax.layers import AAConv
from aa_flax.models import create_model
from aa_flax.training import functional
from aa_flax.weights import load, save

ATTENTION = dict(num_heads=2, kappa=0.5, upsilon=0.25, min_key_depth_per_head=3)


def network(image_size, name="aa_wide_resnet28_10", **changes):
    own = ATTENTION if name.startswith("aa_") else {}
    options = dict(depth=10, widen_factor=1, num_classes=5, in_channels=2, image_size=image_size)
    return create_model(name, **{**options, **own, "rngs": nnx.Rngs(0), **changes})


def padded(rng, alone, length, fill):
    """Return a signal at the beginning of a longer one that holds something, and which locations are valid."""
    count, own, channels = alone.shape
    longer = np.full((count, length, channels), fill, np.float32) * rng.normal(size=(count, length, channels))
    longer[:, :own] = alone
    return jnp.asarray(longer, jnp.float32), jnp.broadcast_to(jnp.arange(length) < own, (count, length))


@pytest.mark.thorough
@pytest.mark.parametrize("options", [{}, {"shortcut": "projection", "long_skips": True}], ids=["paper", "others"])
def test_a_padded_signal_gives_what_it_gives_alone(rng, options):
    model = network((11,), **options)
    _, _, stats = functional(model)
    nnx.update(model, jax.tree.map(lambda v: jnp.asarray(rng.uniform(0.5, 1.5, v.shape), jnp.float32), stats))
    alone = rng.normal(size=(2, 7, 2)).astype(np.float32)
    longer, valid = padded(rng, alone, 11, 100)
    call = nnx.jit(type(model).__call__)
    expected = call(model, jnp.asarray(alone))
    np.testing.assert_allclose(call(model, longer, valid=valid), expected, rtol=1e-4, atol=1e-5)
    assert np.abs(call(model, longer) - expected).max() > 1e-2  # without saying what is valid, the padding counts


@pytest.mark.thorough
def test_training_sees_no_padding_either(rng):
    """Losses, gradients and the statistics of batch norms are those of the valid locations."""
    model = network((9,))
    apply, params, stats = functional(model)
    alone = rng.normal(size=(3, 5, 2)).astype(np.float32)

    @jax.jit
    def run(images, valid):
        def loss(params):
            logits, after = apply(params, stats, images, train=True, **({} if valid is None else {"valid": valid}))
            return jnp.square(logits).sum(), after

        (value, after), gradients = jax.value_and_grad(loss, has_aux=True)(params)
        return value, after, gradients

    expected = run(jnp.asarray(alone), None)
    found = run(*padded(rng, alone, 9, 100))
    # The layer's tables are made for 9 locations; of 5 the inner rows count, so all gradients agree too.
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(one, other, rtol=2e-3, atol=1e-4)


@pytest.mark.thorough
def test_a_network_of_volumes(rng):
    model = network((4, 6, 5), attention_stages=(2, 3))
    x = jnp.asarray(rng.normal(size=(2, 4, 6, 5, 2)), jnp.float32)
    features, found = nnx.jit(lambda model, x: (model.features(x), model(x)))(model, x)
    for name, info in model.feature_info.items():
        assert features[name].shape == (2, *(-(-side // info.stride) for side in (4, 6, 5)), info.channels)
    logits = np.asarray(features["stage3"]).mean((1, 2, 3)) @ np.asarray(model.head.kernel[...])
    np.testing.assert_allclose(found, logits + np.asarray(model.head.bias[...]), rtol=1e-4, atol=1e-5)
    attending = {path: layer for path, layer in nnx.iter_modules(model) if isinstance(layer, AAConv)}
    layer = attending["stage2", "block1", "conv1"]
    assert type(layer) is AAConv and len(attending) == 2
    assert [layer.rel_depth.shape, layer.rel_height.shape, layer.rel_width.shape] == [(3, 8), (5, 8), (5, 8)]


def test_summaries_count_signals():
    """The counts by hand of the one attending block: 2 heads with keys of 8 and values of 8 in all."""
    model = network((6,), attention_stages=(1,))
    summary = summarize(model)
    assert summary.image_shape == (6, 2)
    layer = model.stage1.block1.conv1
    key_depth, value_depth, places = layer.key_depth, layer.value_depth, 6
    products = places * (places * (key_depth + value_depth) + (2 * places - 1) * key_depth)
    projections = places * (16 * (2 * key_depth + value_depth) + value_depth**2)
    # Of a padded convolution all taps count, as of images.
    convolution = places * 3 * 16 * (16 - value_depth)
    assert summary.by_module["stage1.block1.conv1"].flops == 2 * (products + projections + convolution)
    assert summarize(model, (12,)).image_shape == (12, 2)


@pytest.mark.thorough
def test_attention_maps_of_a_signal(rng):
    model = network((8,), attention_stages=(2,))
    maps = attention_maps(model, jnp.asarray(rng.normal(size=(2, 8, 2)), jnp.float32), queries=[(5,), (0,)])
    weights = np.asarray(maps["stage2.block1.conv1"])
    assert weights.shape == (2, 2, 2, 4)
    np.testing.assert_allclose(weights.sum(-1), 1, rtol=1e-5)


@pytest.mark.thorough
def test_weights_travel_with_their_card(tmp_path):
    model = network((6,))
    save(model, tmp_path / "net.safetensors")
    other, _ = load(tmp_path / "net.safetensors")
    assert other.image_size == (6,)
    found = dict(nnx.to_flat_state(nnx.state(other, nnx.Param)))
    for path, leaf in nnx.to_flat_state(nnx.state(model, nnx.Param)):
        np.testing.assert_array_equal(leaf[...], found[path][...])


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("resnet18", {"image_size": (29,)}, r"image_size must be a whole number or \(height, width\), at least 1"),
        (
            "wide_resnet28_10",
            {"image_size": (2, 3, 4, 5)},
            r"\(length,\) or \(height, width\) or \(depth, height, width\)",
        ),
        ("wide_resnet28_10", {"image_size": (0,)}, r"image_size must be .*, at least 1, got \(0,\)"),
        ("se_wide_resnet28_10", {"image_size": (9,)}, "recalibration must be plain in a network of signals or volumes"),
        ("aw_wide_resnet28_10", {"image_size": (9,)}, "second_conv must be plain in a network of signals or volumes"),
        ("wide_resnet28_10", {"image_size": (9,), "pooling": "attention"}, "pooling must be plain"),
    ],
)
def test_what_only_images_have(name, options, words):
    with pytest.raises(ValueError, match=words):
        create_model(name, **options, rngs=nnx.Rngs(0))


@pytest.mark.usefixtures("unchecked_shapes")
def test_calls_that_do_not_fit():
    model = network((9,), "wide_resnet28_10")
    with pytest.raises(ValueError, match=r"images must have shape \[b, l, in_channels=2\].* got \(2, 9, 9, 2\)"):
        model(jnp.ones((2, 9, 9, 2)))
    with pytest.raises(ValueError, match=r"valid must have shape \(2, 9\) like images, got \(2, 8\)"):
        model(jnp.ones((2, 9, 2)), valid=jnp.ones((2, 8), bool))
    with pytest.raises(TypeError, match="valid must be bool, got float32"):
        model(jnp.ones((2, 9, 2)), valid=jnp.ones((2, 9)))
