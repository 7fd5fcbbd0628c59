import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from aa_flax.data.augment.device import color_jitter, normalize, random_flip

KEY = jax.random.key(3)


@pytest.fixture
def images(rng):
    return rng.normal(size=(13, 5, 7, 3)).astype(np.float32)


@pytest.mark.parametrize(("dtype", "tolerance"), [(jnp.float32, 1e-6), (jnp.bfloat16, 2**-8), (jnp.float16, 2**-11)])
def test_normalize(rng, dtype, tolerance):
    pixels = rng.integers(0, 256, (2, 5, 7, 3), np.uint8)
    mean, std = (0.3, 0.5, 0.7), (0.2, 0.25, 0.3)
    expected = (pixels.astype(np.float64) / 255 - np.array(mean)) / np.array(std)
    result = jax.jit(lambda images: normalize(images, mean, std, dtype))(pixels)
    assert result.dtype == dtype
    # Half a unit in the last place of the largest value, 3.5.
    np.testing.assert_allclose(np.asarray(result, np.float64), expected, rtol=tolerance, atol=2 * tolerance)


def test_normalize_in_float64(rng):
    pixels = rng.integers(0, 256, (2, 5, 7, 1), np.uint8)
    with jax.enable_x64(True):
        result = normalize(jnp.asarray(pixels), (0.1,), (0.3,), jnp.float64)
    np.testing.assert_allclose(result, (pixels / 255 - 0.1) / 0.3, rtol=1e-14, atol=1e-14)


def test_normalize_needs_one_value_a_channel():
    with pytest.raises(ValueError, match="mean and std have 1 and 3 values, expected 3"):
        normalize(jnp.zeros((1, 2, 2, 3), jnp.uint8), (0.5,), (0.2, 0.2, 0.2))


def test_normalize_takes_float_pixels(rng):
    pixels = rng.uniform(0, 255, (2, 5, 7, 3)).astype(np.float32)
    expected = (pixels / 255.0 - 0.4) / 0.2
    # Float32 of quotients up to 3, from operands up to 255.
    np.testing.assert_allclose(normalize(jnp.asarray(pixels), (0.4,) * 3, (0.2,) * 3), expected, rtol=1e-5, atol=1e-5)


def jittered(pixels, factors):
    """Return the images after brightness, contrast and saturation with factors [b, 3], in float64."""
    result = []
    for image, (brightness, contrast, saturation) in zip(pixels.astype(np.float64), factors, strict=True):
        x = np.clip(brightness * image, 0, 255)
        grey = 0.299 * x[..., 0] + 0.587 * x[..., 1] + 0.114 * x[..., 2] if image.shape[-1] == 3 else x[..., 0]
        x = np.clip(contrast * x + (1 - contrast) * grey.mean(), 0, 255)
        if image.shape[-1] == 3:
            grey = 0.299 * x[..., 0] + 0.587 * x[..., 1] + 0.114 * x[..., 2]
            x = np.clip(saturation * x + (1 - saturation) * grey[..., None], 0, 255)
        result.append(x)
    return np.stack(result)


@pytest.mark.few
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("strength", [0.4, 1.0])
def test_color_jitter(rng, channels, strength):
    pixels = rng.integers(0, 256, (6, 5, 7, channels), np.uint8)
    result = np.asarray(jax.jit(color_jitter, static_argnames="strength")(KEY, pixels, strength=strength))
    assert result.dtype == np.float32 and result.min() >= 0 and result.max() <= 255
    uniform = np.asarray(jax.random.uniform(KEY, (6, 3, 1, 1, 1)), np.float64).reshape(6, 3)
    factors = 1 - strength + 2 * strength * uniform
    np.testing.assert_allclose(result, jittered(pixels, factors), rtol=1e-5, atol=1e-3)  # float32 of numbers up to 510
    assert len(np.unique(factors)) == 18  # each image and each change has its own
    np.testing.assert_allclose(color_jitter(KEY, jnp.asarray(pixels, jnp.float32), strength), result, atol=1e-3)


@pytest.mark.parametrize("channels", [1, 3])
def test_no_color_jitter_is_the_identity(rng, channels):
    pixels = rng.integers(0, 256, (6, 5, 7, channels), np.uint8)
    np.testing.assert_array_equal(color_jitter(KEY, jnp.asarray(pixels), 0.0), pixels.astype(np.float32))


def test_color_jitter_draws_uniformly():
    """Grey images of one value have no contrast and no saturation, so that brightness alone is left."""
    factors = np.asarray(color_jitter(KEY, jnp.full((4000, 1, 1, 1), 100, jnp.uint8), 0.3))[:, 0, 0, 0] / 100
    assert factors.min() >= 0.7 - 1e-6 and factors.max() <= 1.3 + 1e-6
    # Uniform of width 0.6: standard deviation 0.173; five standard errors.
    assert abs(factors.mean() - 1) < 5 * 0.173 / np.sqrt(4000) and abs(factors.std() - 0.173) < 0.01


def test_color_jitter_of_grey_in_three_channels_stays_grey(rng):
    grey = np.repeat(rng.integers(0, 256, (6, 5, 7, 1), np.uint8), 3, -1)
    result = np.asarray(color_jitter(KEY, jnp.asarray(grey), 0.8))
    np.testing.assert_allclose(result, result[..., :1].repeat(3, -1), atol=1e-3)
    one = np.asarray(color_jitter(KEY, jnp.asarray(grey[..., :1]), 0.8))
    np.testing.assert_allclose(result[..., :1], one, atol=1e-3)


def test_color_jitter_leaves_sharded_images_where_they_are(rng):
    devices = jax.devices()
    sharding = NamedSharding(Mesh(devices, "data"), PartitionSpec("data"))
    pixels = rng.integers(0, 256, (2 * len(devices), 5, 7, 3), np.uint8)
    jitter = jax.jit(color_jitter, static_argnames="strength", out_shardings=sharding)
    placed = jax.device_put(pixels, sharding)
    text = jitter.lower(KEY, placed, strength=0.4).compile().as_text()
    assert not [word for word in ("all-", "collective-permute", "reduce-scatter") if word in text]
    np.testing.assert_allclose(
        jitter(KEY, placed, strength=0.4), color_jitter(KEY, jnp.asarray(pixels), 0.4), atol=1e-3
    )


def test_color_jitter_refuses():
    with pytest.raises(ValueError, match=r"strength is 1.2, expected a number in \[0, 1\]"):
        color_jitter(KEY, jnp.zeros((1, 2, 2, 3), jnp.uint8), 1.2)
    with pytest.raises(ValueError, match=r"images have 2 channels, expected 1 \(grey\) or 3"):
        color_jitter(KEY, jnp.zeros((1, 2, 2, 2), jnp.uint8), 0.5)


def test_random_flip_mirrors_about_half(images):
    images = np.tile(images, (20, 1, 1, 1))
    flipped = np.asarray(jax.jit(random_flip)(KEY, images))
    mirrored = [np.array_equal(new, old[:, ::-1]) for new, old in zip(flipped, images, strict=True)]
    kept = [np.array_equal(new, old) for new, old in zip(flipped, images, strict=True)]
    assert all(one != other for one, other in zip(mirrored, kept, strict=True))
    # Binomial(260, 1/2): standard deviation 8.1; five of them.
    assert abs(sum(mirrored) - 130) < 41


def test_random_flip_keeps_dtype():
    for dtype in (jnp.uint8, jnp.bfloat16):
        assert random_flip(KEY, jnp.zeros((2, 3, 4, 1), dtype)).dtype == dtype


def test_raw_keys_serve_too(images):
    with jax.numpy_rank_promotion("raise"):
        result = random_flip(jax.random.PRNGKey(0), jnp.asarray(images))
    assert result.shape == images.shape
