import jax
import jax.numpy as jnp
import numpy as np
import pytest

from aa_flax.ops import platform
from aa_flax.ops.moments import moments

# The form for TPUs, which shifts by the expected mean and makes a second pass if that is far off, runs on every device.
WAYS = ("cpu", "tpu")
SHAPES = [((7, 5, 6, 3), (0, 1, 2)), ((2, 7, 5, 6, 3), (1, 2, 3)), ((11, 3), (0,)), ((1, 5, 1, 3), (0, 1, 2))]


def traced(way, x, axes, expected=None, epsilon=1e-9):
    expected = jnp.zeros(x.shape[-1], jnp.float32) if expected is None else jnp.asarray(expected)
    with platform.traced_for(way):
        return jax.jit(lambda x: moments(x, axes, expected=expected, epsilon=epsilon))(jnp.asarray(x))


@pytest.mark.few(15)
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(("mean", "deviation"), [(0, 1), (1_000, 0.1), (30_000, 1), (-30_000, 1), (3, 1e-4)])
@pytest.mark.parametrize(("shape", "axes"), SHAPES)
def test_the_variance_does_not_cancel(rng, way, shape, axes, mean, deviation):
    x = (mean + deviation * rng.normal(size=shape)).astype(np.float32)
    exact = x.astype(np.float64)
    got_mean, got_variance = traced(way, x, axes)
    np.testing.assert_allclose(got_mean, exact.mean(axes, keepdims=True), rtol=3e-7, atol=1e-6)
    np.testing.assert_allclose(got_variance, exact.var(axes, keepdims=True), rtol=2e-3, atol=1e-12)


@pytest.mark.parametrize("way", WAYS)
def test_an_image_of_zeros_among_others_far_away(rng, way):
    x = 30_000 + rng.normal(size=(6, 5, 7, 3)).astype(np.float32)
    x[2] = 0
    _, variance = traced(way, x, (0, 1, 2))
    np.testing.assert_allclose(variance, x.astype(np.float64).var((0, 1, 2), keepdims=True), rtol=1e-4)


@pytest.mark.parametrize("way", WAYS)
def test_a_constant_channel_has_no_variance(way):
    mean, variance = traced(way, np.full((4, 3, 5, 2), 30_000, np.float32), (0, 1, 2), epsilon=1e-5)
    np.testing.assert_allclose(mean, 30_000, rtol=3e-7)
    assert (variance < 1e-5).all()


@pytest.mark.parametrize("way", WAYS)
def test_sixteen_bits_are_summed_in_float32(rng, way):
    x = jnp.asarray(100 + 4 * rng.normal(size=(64, 9, 8, 3)), jnp.bfloat16)
    mean, variance = traced(way, x, (0, 1, 2))
    exact = np.asarray(x, np.float64)
    assert mean.dtype == variance.dtype == jnp.float32
    np.testing.assert_allclose(mean, exact.mean((0, 1, 2), keepdims=True), rtol=1e-6)
    np.testing.assert_allclose(variance, exact.var((0, 1, 2), keepdims=True), rtol=1e-4)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("mean", [0, 30_000])
def test_gradients(rng, way, mean):
    """The gradients are those of the definitions: dy/N for the mean, 2 (x - mean) dy/N for the variance."""
    x = (mean + rng.normal(size=(5, 3, 4, 2))).astype(np.float32)
    axes = (0, 1, 2)
    by_mean, by_variance = rng.normal(size=(2, 1, 1, 1, 2)).astype(np.float32)

    def weighed(x):
        with platform.traced_for(way):
            found = moments(x, axes, expected=jnp.zeros(2), epsilon=1e-5)
        return sum((each * by).sum() for each, by in zip(found, (by_mean, by_variance), strict=True))

    exact = x.astype(np.float64)
    expected = (by_mean + 2 * (exact - exact.mean(axes, keepdims=True)) * by_variance) / 60
    tolerance = 1e-6 if mean == 0 else 2 * 2e-3 * np.abs(by_variance).max() / 60  # the mean is known to 2e-3 at 30,000
    np.testing.assert_allclose(jax.jit(jax.grad(weighed))(jnp.asarray(x)), expected, rtol=1e-5, atol=tolerance)
    step = jnp.asarray(rng.normal(size=x.shape), jnp.float32)  # forward mode
    along = jax.jit(lambda x, step: jax.jvp(weighed, (x,), (step,))[1])(jnp.asarray(x), step)
    np.testing.assert_allclose(along, (expected * step).sum(), rtol=1e-3, atol=5e-3)


@pytest.mark.parametrize("way", WAYS)
def test_a_middle_far_from_all_other_places_costs_no_more_than_their_number(rng, way):
    """The shift is then far from the mean, but the middle itself makes the variance large."""
    x = rng.normal(size=(4, 15, 13, 2)).astype(np.float32)
    x[:, 7, 6] += 1e4
    mean, variance = traced(way, x, (0, 1, 2))
    exact = np.asarray(x, np.float64)
    np.testing.assert_allclose(np.ravel(mean), exact.mean((0, 1, 2)), rtol=1e-4)
    # (mean - shift)² is at most 195 times the variance, and float32 sums 780 of them
    np.testing.assert_allclose(np.ravel(variance), exact.var((0, 1, 2)), rtol=2e-3)
