import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from aa_flax.layers.drop_path import drop_path, drop_path_rates, surviving

KEY = jax.random.key(5)


def test_rates():
    np.testing.assert_allclose(drop_path_rates(0.4, 4), (0.1, 0.2, 0.3, 0.4))
    assert drop_path_rates(0.4, 3, "constant") == (0.4,) * 3
    assert drop_path_rates(0.0, 2) == (0.0, 0.0)
    for rate in (-0.1, 1.0):
        with pytest.raises(ValueError, match=rf"drop_path_rate must lie in \[0, 1\), got {rate}"):
            drop_path_rates(rate, 2)


@pytest.mark.usefixtures("unchecked_shapes")
def test_unknown_rule():
    with pytest.raises(ValueError, match="drop_path_rule must be one of .*'linear', 'constant'.*, got 'cosine'"):
        drop_path_rates(0.1, 2, "cosine")


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16, jnp.float64])
def test_survivors_are_exact(rng, dtype):
    """Each of 400 examples is zero or scaled by 1 / 0.75; the number of zeros is binomial(400, 1/4)."""
    with jax.enable_x64(dtype == jnp.float64):
        branch = jnp.asarray(rng.normal(size=(400, 3, 2, 5)), dtype)
        result = drop_path(branch, 0.25, train=True, rngs=nnx.Rngs(3))
        scaled = branch / jnp.asarray(0.75, dtype)
    assert result.dtype == dtype
    result, scaled = np.asarray(result), np.asarray(scaled)
    alive = (result != 0).any((1, 2, 3))
    np.testing.assert_array_equal(result[alive], scaled[alive])
    assert not result[~alive].any()
    assert abs((~alive).sum() - 100) < 5 * np.sqrt(400 * 0.25 * 0.75)


def test_expectation_and_gradient():
    """The mean over draws is the branch; the gradient of the sum is the scaled mask."""
    keys = jax.random.split(KEY, 2000)
    draws = jax.vmap(lambda key: surviving(key, jnp.full((3, 2), 2.0), jnp.float32(0.4)))(keys)
    # Each is 2 / 0.6 with probability 0.6: standard deviation 1.63; five standard errors.
    np.testing.assert_allclose(draws.mean(0), 2.0, atol=5 * 1.63 / np.sqrt(2000))
    x = jnp.arange(1.0, 13.0).reshape(6, 2)
    gradient = jax.grad(lambda x: surviving(KEY, x, 0.4).sum())(x)
    np.testing.assert_allclose(gradient * x, surviving(KEY, x, 0.4), rtol=1e-6)
    np.testing.assert_allclose(np.unique(gradient), [0, 1 / 0.6], rtol=1e-6)


def test_nothing_drops_in_evaluation_or_at_rate_zero():
    branch = jnp.ones((4, 2))
    assert drop_path(branch, 0.9, train=False, rngs=None) is branch
    assert drop_path(branch, 0.0, train=True, rngs=None) is branch
    with pytest.raises(ValueError, match=r"train=True with drop path needs rngs, for example rngs=nnx.Rngs\(0\)"):
        drop_path(branch, 0.1, train=True, rngs=None)


def test_no_two_calls_share_a_mask():
    rngs = nnx.Rngs(0)
    masks = {np.asarray(drop_path(jnp.ones((64, 1)), 0.5, train=True, rngs=rngs)).tobytes() for _ in range(5)}
    assert len(masks) == 5
