"""Tests of weights for another number of channels."""

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from aa_flax.models import create_model
from aa_flax.weights import WeightsError, init_from_plain, load_torch_state_dict
from aa_flax.weights.arrays import flat_arrays
from aa_flax.weights.stem import adapted_stem
from aa_flax.weights.tables import _FAMILIES, family_of

from . import official_patchconvnet as official

STEMS = {"mnasnet_100": "conv_stem.weight", "resnet18": "conv1.weight"}


@pytest.mark.parametrize("channels", [1, 2, 3, 4, 6])
def test_an_image_with_equal_channels_gives_what_it_gave(rng, channels):
    kernel = rng.normal(size=(3, 3, 3, 5)).astype(np.float32)
    adapted = adapted_stem(kernel, channels)
    assert adapted.shape == (3, 3, channels, 5) and adapted.dtype == np.float32
    if channels in (1, 3, 6):
        np.testing.assert_allclose(adapted.sum(2), kernel.sum(2), rtol=1e-5, atol=1e-6)
    if channels > 1:
        for i in range(channels):
            np.testing.assert_allclose(adapted[:, :, i], kernel[:, :, i % 3] * 3 / channels, rtol=1e-6)


def test_one_channel_into_three(rng):
    kernel = rng.normal(size=(3, 3, 1, 5)).astype(np.float16)
    adapted = adapted_stem(kernel, 3)
    assert adapted.dtype == np.float16
    np.testing.assert_allclose(adapted.astype(float).sum(2), kernel[:, :, 0].astype(float), atol=3e-3)


@pytest.mark.few
@pytest.mark.parametrize("name", STEMS)
@pytest.mark.parametrize("channels", [1, 5])
def test_a_stem_of_three_channels_on_request_only(build, random_state_dict, name, channels):
    state, key = random_state_dict(build(name)), STEMS[name]
    model = build(name, in_channels=channels)
    before = np.asarray(model.stem.kernel[...])
    for function in (load_torch_state_dict, init_from_plain):
        with pytest.raises(WeightsError, match=f"adapt_stem=True takes .*1 problems:\n  {key}: shape .* expected"):
            function(model, state, source="timm")
        np.testing.assert_array_equal(model.stem.kernel[...], before)
    expected = adapted_stem(state[key].transpose(2, 3, 1, 0), channels)
    for function in (load_torch_state_dict, init_from_plain):
        report = function(model, {f"module.{k}": v for k, v in state.items()}, source="timm", adapt_stem=True)
        np.testing.assert_array_equal(model.stem.kernel[...], expected)
        assert report.notes[-1] == f"stem.kernel: made for {channels} channels from the 3 of the weights"
        assert not report.unused and "stem.kernel" in report.loaded


def test_a_grey_network_is_the_coloured_one_on_grey_images(rng, build, small):
    coloured, state = small
    grey = build("mnasnet_100", in_channels=1)
    load_torch_state_dict(coloured, state, source="timm")
    load_torch_state_dict(grey, state, source="timm", adapt_stem=True)
    images = jnp.asarray(rng.normal(size=(2, 9, 11, 1)), jnp.float32)
    np.testing.assert_allclose(grey.stem(images), coloured.stem(jnp.tile(images, 3)), rtol=1e-4, atol=1e-4)


def test_our_own_and_the_authors_stems(build, rng):
    state = official.random_state_dict(rng, 16, 2, 5, per_class=False)
    options = dict(width=16, depth=2, num_classes=5, image_size=(32, 48))
    model = build("patchconvnet_s60", in_channels=1, **options)
    report = load_torch_state_dict(model, state, source="deit", adapt_stem=True)
    expected = state["patch_embed.proj.0.0.weight"].transpose(2, 3, 1, 0).sum(2, keepdims=True)
    np.testing.assert_allclose(model.stem.conv1.kernel[...], expected, rtol=1e-5, atol=1e-6)
    assert report.notes == ("stem.conv1.kernel: made for 1 channels from the 3 of the weights",)
    ours = {path: np.asarray(value) for path, value in flat_arrays(model).items()}
    coloured = build("patchconvnet_s60", **options)
    with pytest.raises(WeightsError, match="adapt_stem=True"):
        init_from_plain(coloured, ours, source="aa_flax")
    report = init_from_plain(coloured, ours, source="aa_flax", adapt_stem=True)
    np.testing.assert_allclose(coloured.stem.conv1.kernel[:, :, 1:2], expected / 3, rtol=1e-5, atol=1e-6)
    assert not report.new


def test_a_request_without_need_changes_nothing(small):
    model, state = small
    assert load_torch_state_dict(model, state, source="timm", adapt_stem=True).notes == ()
    state = {**state, "conv_stem.weight": np.zeros((8, 1, 5, 5), np.float32)}  # differs in more than channels
    with pytest.raises(WeightsError, match=r"fit this MnasNet; 1 problems:\n  conv_stem.weight: shape \(8, 1, 5, 5\)"):
        load_torch_state_dict(model, state, source="timm", adapt_stem=True)


def test_every_family_says_where_its_stem_is():
    kinds = set()
    for name in ("resnet18", "mnasnet_100", "wide_resnet28_10", "patchconvnet_s60", "patchconvnet_s60_multi"):
        model = nnx.eval_shape(lambda name=name: create_model(name, in_channels=5, rngs=nnx.Rngs(0)))
        assert flat_arrays(model)[family_of(model).stem].shape[2] == 5
        kinds.add(type(model))
    assert kinds == {*_FAMILIES}
