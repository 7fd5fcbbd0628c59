import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import NamedSharding, PartitionSpec

from aa_flax.layers.norm import LayerNorm, batch_norm, set_groups


def exact(x, axes=(0, 1, 2), epsilon=1e-5):
    x = np.asarray(x, np.float64)
    return (x - x.mean(axes, keepdims=True)) / np.sqrt(x.var(axes, keepdims=True) + epsilon)


def pure(norm):
    """Return the layer in training as a function of its state and `x`, and the state."""
    graph, state = nnx.split(norm)

    def apply(state, x):
        merged = nnx.merge(graph, state, copy=True)
        y = merged(x, use_running_average=False)
        return y, nnx.state(merged)

    return apply, state


@pytest.mark.parametrize(("mean", "deviation"), [(0, 1), (1_000, 0.1), (30_000, 1)])
def test_a_large_mean_leaves_the_deviation_at_one(rng, mean, deviation):
    x = jnp.asarray(mean + deviation * rng.normal(size=(8, 6, 7, 5)), jnp.float32)
    y = batch_norm(5, rngs=nnx.Rngs(0))(x, use_running_average=False)
    assert abs(float(y.std()) - 1) < 0.01
    # x itself is rounded to half a unit in its last digit: 2e-3 at 30,000, 3e-5 at 1,000.
    np.testing.assert_allclose(y, exact(x), rtol=1e-3, atol=3e-3)


def test_each_group_has_its_own_statistics(rng):
    x = 30_000 + rng.normal(size=(6, 3, 5, 4)) * np.repeat([1, 20], 3)[:, None, None, None]
    x = jnp.asarray(x, jnp.float32)
    norm = batch_norm(4, rngs=nnx.Rngs(0))
    set_groups(norm, 2)
    y = norm(x, use_running_average=False)
    np.testing.assert_allclose(y, np.concatenate([exact(x[:3]), exact(x[3:])]), rtol=1e-3, atol=3e-3)
    halves = np.asarray(x, np.float64).reshape(2, -1, 4)
    np.testing.assert_allclose(norm.mean[...], 0.1 * halves.mean(1).mean(0), rtol=1e-6)
    np.testing.assert_allclose(norm.var[...], 0.9 + 0.1 * halves.var(1).mean(0), rtol=1e-3)
    with pytest.raises(ValueError, match="groups must be at least 1, got 0"):
        set_groups(norm, 0)
    with pytest.raises(ValueError, match="5 does not divide into 2 groups"):
        norm(x[:5], use_running_average=False)


def test_a_batch_over_eight_devices_is_one_batch(rng):
    x = (30_000 + rng.normal(size=(16, 3, 5, 4)) + np.arange(16)[:, None, None, None]).astype(np.float32)
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    apply, state = pure(batch_norm(4, rngs=nnx.Rngs(0)))
    run = jax.jit(lambda x: apply(state, x))
    spread = run(jax.device_put(x, NamedSharding(mesh, PartitionSpec("data"))))
    for one, many in zip(jax.tree.leaves(run(jnp.asarray(x))), jax.tree.leaves(spread), strict=True):
        np.testing.assert_allclose(many, one, rtol=1e-5, atol=1e-3)
    np.testing.assert_allclose(spread[0], exact(x), rtol=1e-3, atol=3e-3)


def test_sixteen_bit_networks_keep_their_statistics_in_float32(rng):
    norm = batch_norm(3, dtype=jnp.bfloat16, rngs=nnx.Rngs(0))
    norm.mean[...], norm.var[...] = jnp.asarray([100.1, -0.3, 7.7]), jnp.asarray([0.51, 3.3, 1e-3])
    x = jnp.asarray(rng.normal(size=(4, 3, 5, 3)), jnp.bfloat16)
    y = norm(x, use_running_average=True)
    assert y.dtype == jnp.bfloat16
    wanted = (np.asarray(x, np.float64) - np.asarray(norm.mean[...])) / np.sqrt(
        np.asarray(norm.var[...], np.float64) + 1e-5
    )
    np.testing.assert_allclose(np.asarray(y, np.float64), wanted, rtol=2**-8)  # one rounding


def test_gradients_are_those_of_the_definition(rng):
    x = rng.normal(size=(5, 4, 3, 2)).astype(np.float32) * [3, 0.2] + [1, -40]
    dy = rng.normal(size=x.shape)
    norm = batch_norm(2, epsilon=1e-5, scale_init=nnx.initializers.constant(1.7), rngs=nnx.Rngs(0))
    apply, state = pure(norm)

    def loss(state, x):
        return (apply(state, x)[0] * dy.astype(np.float32)).sum()

    by_state, by_x = jax.jit(jax.grad(loss, (0, 1)))(state, jnp.asarray(x, jnp.float32))
    y, axes = exact(x), (0, 1, 2)
    inverse = 1.7 / np.sqrt(x.var(axes) + 1e-5)
    expected = inverse * (dy - dy.mean(axes) - y * (dy * y).mean(axes))
    np.testing.assert_allclose(by_x, expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(by_state["scale"][...], (dy * y).sum(axes), rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(by_state["bias"][...], dy.sum(axes), rtol=1e-4, atol=1e-4)


def test_scale_and_shift_say_what_a_call_does(rng):
    x = jnp.asarray(3 + rng.normal(size=(4, 5, 6, 2)), jnp.float32)
    one, other = (batch_norm(2, rngs=nnx.Rngs(0)) for _ in range(2))
    scale, shift = one.scale_and_shift(x, False)
    y = other(x, use_running_average=False)
    np.testing.assert_allclose(x * scale[None, None, None] + shift[None, None, None], y, rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(one.mean[...], other.mean[...])
    np.testing.assert_array_equal(one.var[...], other.var[...])


def test_masked_entries_do_not_count(rng):
    x = jnp.asarray(rng.normal(size=(4, 3, 5, 2)), jnp.float32)
    mask = jnp.arange(4)[:, None, None, None] < 3
    y = batch_norm(2, rngs=nnx.Rngs(0))(x, use_running_average=False, mask=mask)
    np.testing.assert_allclose(y[:3], exact(x[:3]), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("masked", [False, True])
def test_layer_norm_of_a_large_mean_does_not_cancel(rng, masked):
    x = rng.normal(size=(4, 3, 5)) + 3e4
    norm = LayerNorm(5, epsilon=1e-6, rngs=nnx.Rngs(0))
    y = norm(jnp.asarray(x, jnp.float32), mask=jnp.ones((1, 1, 5), bool) if masked else None)
    x = x.astype(np.float32).astype(np.float64)
    wanted = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6)
    np.testing.assert_allclose(y, wanted, atol=1e-2)  # float32 resolves the mean to 2e-3


def test_layer_norm_in_16_bits_rounds_once(rng):
    norm = LayerNorm(5, dtype=jnp.bfloat16, rngs=nnx.Rngs(0))
    norm.scale[...], norm.bias[...] = jnp.full(5, 1.003), jnp.full(5, 10.013)  # bfloat16 has neither
    x = jnp.asarray(rng.normal(size=(4, 5)), jnp.bfloat16)
    exact = np.asarray(x, np.float64)
    wanted = (exact - exact.mean(-1, keepdims=True)) / exact.std(-1, keepdims=True) * 1.003 + 10.013
    y = norm(x)
    assert y.dtype == jnp.bfloat16
    np.testing.assert_allclose(np.asarray(y, np.float64), wanted, rtol=2**-8 * 1.01)
