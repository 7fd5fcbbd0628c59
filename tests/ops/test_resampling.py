import jax
import jax.numpy as jnp
import numpy as np
import pytest

from aa_flax.ops import average_pool, resize_bilinear
from aa_flax.ops.platform import traced_for


@pytest.mark.few(4)
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


@pytest.mark.few
@pytest.mark.parametrize(("stride", "window"), [(2, 3), (1, 3), (3, 3), (2, 7)])
def test_average_pool_on_a_cpu_is_that_of_other_devices(rng, stride, window):
    x, cotangent = jnp.asarray(rng.normal(size=(2, 7, 10, 3)), jnp.float32), rng.normal(size=(2, 10, 10, 3))

    def both():
        output, pullback = jax.vjp(lambda x: average_pool(x, stride, window=window), x)
        height, width = output.shape[1:3]
        return output, *pullback(jnp.asarray(cotangent[:, :height, :width], jnp.float32))

    here = both()
    with traced_for("gpu"):
        there = both()
    for ours, wanted in zip(here, there, strict=True):
        np.testing.assert_allclose(ours, wanted, rtol=1e-5, atol=1e-6)  # sums of at most 49 terms in another order


def bilinear(signal, length):
    """Return a signal interpolated along its axis by definition: half-pixel centres, repeated border."""
    centres = (np.arange(length) + 0.5) * len(signal) / length - 0.5
    return np.interp(centres, np.arange(len(signal)), signal)


@pytest.mark.parametrize(("height", "width"), [(6, 10), (5, 9), (3, 5), (7, 5)])
def test_resize_bilinear_is_bilinear_with_half_pixel_centres(rng, height, width):
    x = jnp.asarray(rng.normal(size=(2, 3, 5, 2)), jnp.float32)
    expected = np.apply_along_axis(bilinear, 1, np.asarray(x, np.float64), height)
    expected = np.apply_along_axis(bilinear, 2, expected, width)
    np.testing.assert_allclose(resize_bilinear(x, height, width), expected, rtol=1e-5, atol=1e-6)
