import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from aa_flax.ops import average_pool, max_pool, upsample


@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("size", [(5, 7), (6, 4), (1, 3), (2, 1)], ids=str)
def test_average_pool_leaves_padding_out_of_the_mean(rng, stride, size):
    h, w = size
    x = jnp.asarray(rng.normal(size=(2, h, w, 3)), jnp.float32)
    pooled, x = np.asarray(average_pool(x, stride)), np.asarray(x)
    assert pooled.shape == (2, -(-h // stride), -(-w // stride), 3)
    for i in range(pooled.shape[1]):
        for j in range(pooled.shape[2]):
            rows = slice(max(stride * i - 1, 0), stride * i + 2)
            columns = slice(max(stride * j - 1, 0), stride * j + 2)
            np.testing.assert_allclose(pooled[:, i, j], x[:, rows, columns].mean((1, 2)), rtol=1e-5, atol=1e-6)


def bilinear(signal, length):
    """Half-pixel centres, the border repeats: one axis, by the definition."""
    centres = (np.arange(length) + 0.5) * len(signal) / length - 0.5
    return np.interp(centres, np.arange(len(signal)), signal)


@pytest.mark.parametrize(("height", "width"), [(6, 10), (5, 9), (3, 5), (7, 5)])
def test_upsample_is_bilinear_with_half_pixel_centres(rng, height, width):
    x = jnp.asarray(rng.normal(size=(2, 3, 5, 2)), jnp.float32)
    expected = np.apply_along_axis(bilinear, 1, np.asarray(x, np.float64), height)
    expected = np.apply_along_axis(bilinear, 2, expected, width)
    np.testing.assert_allclose(upsample(x, height, width), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("size", "stride", "window"), [((7, 10), 2, 3), ((1, 1), 2, 3), ((8, 5), 1, 3), ((9, 4), 3, 5)]
)
def test_max_pool(rng, size, stride, window):
    """Values by loops; gradients of the two ways equal each other, as no two of these numbers are equal."""
    x = rng.normal(size=(2, *size, 3))
    before = (window - 1) // 2
    padded = np.pad(x, ((0, 0), (before, before), (before, before), (0, 0)), constant_values=-np.inf)
    height, width = ((length + 2 * before - window) // stride + 1 for length in size)
    expected = np.empty((2, height, width, 3))
    for i, j in np.ndindex(height, width):
        expected[:, i, j] = padded[:, i * stride : i * stride + window, j * stride : j * stride + window].max((1, 2))
    x, cotangent = jnp.asarray(x, jnp.float32), jnp.asarray(rng.normal(size=expected.shape), jnp.float32)
    got, back = jax.vjp(lambda x: max_pool(x, stride, window), x)
    np.testing.assert_array_equal(got, expected.astype(np.float32))

    def by_window(x):
        padding = ((before, before), (before, before))
        return nnx.max_pool(x, (window, window), strides=(stride, stride), padding=padding)

    np.testing.assert_allclose(back(cotangent)[0], jax.vjp(by_window, x)[1](cotangent)[0], rtol=1e-6, atol=1e-6)


def test_max_pool_elsewhere_is_a_window_reduction():
    """Lowered for a TPU, without one."""
    exported = jax.export.export(jax.jit(lambda x: max_pool(x, 2)), platforms=["tpu"])(
        jax.ShapeDtypeStruct((1, 4, 4, 1), jnp.float32)
    )
    assert "reduce_window" in exported.mlir_module()
