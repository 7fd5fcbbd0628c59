"""Tests of changes of brightness, contrast, saturation and hue."""

import colorsys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from aa_flax.data.augment.photometric import photometric_distortion, scaled_saturation, turned_hue

distort, saturate, turn = map(jax.jit, (photometric_distortion, scaled_saturation, turned_hue))


def pixel_by_pixel(pixels, change):
    """Return pixels 0 to 255 whose hue, saturation and value, each 0 to 1, `change(h, s, v)` gives."""
    rows = [colorsys.hsv_to_rgb(*change(*colorsys.rgb_to_hsv(*(pixel / 255)))) for pixel in pixels.reshape(-1, 3)]
    return 255 * np.array(rows).reshape(pixels.shape)


@pytest.fixture(scope="module")
def pixels():
    rng = np.random.default_rng(0)
    drawn = rng.integers(0, 256, (3, 7, 11, 3)).astype(np.float32)
    drawn[0, 0] = np.array([0, 0, 0, 255, 255, 255, 90, 90, 90, 255, 0], np.float32)[:, None]  # black, white, grey
    drawn[0, 1, :6] = np.array([[255, 0, 0], [0, 255, 0], [0, 0, 255], [9, 9, 0], [0, 9, 9], [9, 0, 9]], np.float32)
    return drawn


@pytest.mark.parametrize("factors", [(0.5, 1.0, 1.5), (3.0, 0.0, 1.2)])
def test_saturation_is_that_of_hsv(pixels, factors):
    found = saturate(jnp.asarray(pixels), jnp.asarray(factors).reshape(3, 1, 1, 1))
    for one, image, factor in zip(found, pixels, factors, strict=True):
        expected = pixel_by_pixel(image, lambda h, s, v, f=factor: (h, min(s * f, 1), v))
        np.testing.assert_allclose(one, expected, atol=2e-3)  # float32 of 0 to 255


@pytest.mark.parametrize("degrees", [(36.0, -36.0, 0.0), (120.0, 359.0, -75.5)])
def test_hue_is_that_of_hsv(pixels, degrees):
    found = turn(jnp.asarray(pixels), jnp.asarray(degrees).reshape(3, 1, 1, 1))
    for one, image, angle in zip(found, pixels, degrees, strict=True):
        expected = pixel_by_pixel(image, lambda h, s, v, a=angle: ((h + a / 360) % 1, s, v))
        np.testing.assert_allclose(one, expected, atol=2e-3)


@pytest.fixture(scope="module")
def drawn():
    """Return many draws of one image of three pixels: grey 100, one of saturation, one that is nearly white."""
    image = jnp.asarray([[[100, 100, 100], [160, 120, 80], [250, 250, 250]]], jnp.uint8)
    images = jnp.broadcast_to(image, (4000, 1, 3, 3))
    found = distort(jax.random.key(3), images)
    assert found.dtype == jnp.float32
    return np.asarray(found, np.float64)


def test_each_change_has_its_range_and_probability(drawn):
    """Of grey, b is added and c multiplies, before or after; neither saturation nor hue changes it."""
    grey = drawn[:, 0, 0]
    np.testing.assert_allclose(grey, grey[:, :1].repeat(3, 1), atol=1e-4)
    same = grey[:, 0] == 100
    assert 0.22 < same.mean() < 0.28  # neither brightness nor contrast: 1/4
    assert 34 <= grey.min() < 40 and 188 < grey.max() <= 198  # (100 - 32) / 2 and (100 + 32) * 1.5
    assert drawn.min() >= 0 and drawn.max() <= 255
    # Hue and saturation of the coloured pixel tell what else was changed, where contrast and brightness were not.
    red, green, blue = drawn[same, 0, 1].T
    hsv = np.array([colorsys.rgb_to_hsv(*(row / 255)) for row in np.stack([red, green, blue], 1)])
    turned, saturated = abs(hsv[:, 0] * 360 - 30) > 0.05, abs(hsv[:, 1] - 0.5) > 1e-4
    assert 0.45 < turned.mean() < 0.55 and 0.45 < saturated.mean() < 0.55
    assert 0.2 < (turned & saturated).mean() < 0.3  # drawn apart
    degrees = (hsv[turned, 0] * 360 - 30 + 180) % 360 - 180
    assert -36 <= degrees.min() < -33 and 33 < degrees.max() <= 36.001
    assert 0.25 <= hsv[saturated, 1].min() < 0.27 and 0.73 < hsv[saturated, 1].max() <= 0.75001
    np.testing.assert_allclose(hsv[:, 2], 160 / 255, atol=1e-5)


def test_images_are_clipped_after_each_change(drawn):
    """What brightness made white is grey of 255 times the contrast, whichever comes first."""
    grey, white = drawn[:, 0, 0, 0], drawn[:, 0, 2, 0]
    both = (white < 250) & (grey > 0.505 * white) & (abs(grey / 100 - white / 250) > 1e-3)
    assert both.any() and (white[both] <= 255).all()


def test_draws_differ_between_images_and_keys_and_repeat(drawn):
    image = jnp.full((4000, 1, 3, 3), 90, jnp.uint8)
    first, again, other = (distort(jax.random.key(k), image) for k in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert (first != other).mean() > 0.5 and len({*np.asarray(first[:, 0, 0, 0]).tolist()}) > 30


def test_grey_images_are_an_error():
    with pytest.raises(ValueError, match="images have 1 channels, expected red, green and blue"):
        photometric_distortion(jax.random.key(0), jnp.zeros((2, 3, 4, 1), jnp.uint8))
