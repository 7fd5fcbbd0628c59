import jax
import jax.numpy as jnp
import numpy as np
import pytest

from aa_flax.ops import adaptive_average_pool, average_pool, resize_bilinear
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


@pytest.mark.parametrize(("height", "width"), [(6, 10), (5, 9), (3, 5), (7, 5), (1, 2), (2, 3)])
def test_resize_bilinear_is_bilinear_with_half_pixel_centres(rng, height, width):
    x = jnp.asarray(rng.normal(size=(2, 3, 5, 2)), jnp.float32)
    expected = np.apply_along_axis(bilinear, 1, np.asarray(x, np.float64), height)
    expected = np.apply_along_axis(bilinear, 2, expected, width)
    np.testing.assert_allclose(resize_bilinear(x, height, width), expected, rtol=1e-5, atol=1e-6)


SIZES = [(1, 1), (3, 5), (7, 4), (16, 11)]


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_resize_bilinear_is_pytorchs(rng, size):
    """Up and down, and both at once; without antialiasing."""
    torch = pytest.importorskip("torch")
    x = rng.normal(size=(2, 7, 5, 3)).astype(np.float32)
    given = torch.from_numpy(x.transpose(0, 3, 1, 2).copy())
    expected = torch.nn.functional.interpolate(given, size, mode="bilinear", align_corners=False)
    found = resize_bilinear(jnp.asarray(x), *size)
    np.testing.assert_allclose(found, expected.numpy().transpose(0, 2, 3, 1), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("size", [(7, 12), (5, 3), (1, 6)], ids=str)
def test_adaptive_average_pool_is_the_mean_of_each_bin(rng, size):
    """Bins from floor(i h / n) to ceil((i + 1) h / n), which overlap where n does not divide h; also of short axes."""
    h, w = size
    x = rng.normal(size=(2, h, w, 3)) + 100  # far from 0, where sums of few digits would show
    for n in (1, 2, 3, 6):
        found = np.asarray(adaptive_average_pool(jnp.asarray(x, jnp.float32), n))
        assert found.shape == (2, n, n, 3)
        for i, j in np.ndindex(n, n):
            rows = slice(int(np.floor(i * h / n)), int(np.ceil((i + 1) * h / n)))
            columns = slice(int(np.floor(j * w / n)), int(np.ceil((j + 1) * w / n)))
            np.testing.assert_allclose(found[:, i, j], x[:, rows, columns].mean((1, 2)), rtol=1e-6)


def test_adaptive_average_pool_is_pytorchs(rng):
    torch = pytest.importorskip("torch")
    x = rng.normal(size=(2, 11, 4, 3)).astype(np.float32)
    for n in (1, 2, 3, 6):
        expected = torch.nn.functional.adaptive_avg_pool2d(torch.from_numpy(x.transpose(0, 3, 1, 2).copy()), n)
        found = adaptive_average_pool(jnp.asarray(x), n)
        np.testing.assert_allclose(found, expected.numpy().transpose(0, 2, 3, 1), rtol=1e-5, atol=1e-6)


def test_sums_of_pooling_are_wide(rng):
    """The mean of 4096 locations, near 1, has an error of its own rounding to 16 bits alone."""
    x = jnp.asarray(rng.uniform(0.5, 1.5, (1, 64, 64, 2)), jnp.bfloat16)
    found = adaptive_average_pool(x, 1)
    assert found.dtype == jnp.bfloat16
    np.testing.assert_allclose(
        np.asarray(found, np.float64)[0, 0, 0], np.asarray(x, np.float64).mean((0, 1, 2)), rtol=2**-8
    )
