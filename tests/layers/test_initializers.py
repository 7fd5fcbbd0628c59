import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from aa_flax.layers.initializers import glorot_uniform, he_normal_fan_out, lecun_normal, normal

SHAPE = (3, 3, 40, 70)  # 3 * 3 * 40 = 360 in, 3 * 3 * 70 = 630 out
EXPECTED = {
    "he": (he_normal_fan_out, 0.0, (2 / 630) ** 0.5),
    "glorot": (glorot_uniform, 0.0, (2 / (360 + 630)) ** 0.5),
    "lecun": (lecun_normal, 0.0, (1 / 360) ** 0.5),
    "normal": (normal(0.3, mean=2.0), 2.0, 0.3),
}


@pytest.mark.parametrize("traced", [False, True])
@pytest.mark.parametrize("name", EXPECTED)
def test_moments(name, traced):
    init, mean, stddev = EXPECTED[name]
    draw = jax.jit(lambda key: init(key, SHAPE, jnp.float32)) if traced else lambda key: init(key, SHAPE, jnp.float32)
    x = np.asarray(draw(jax.random.key(1)), np.float64)
    # 25,200 samples: the standard error of the mean is stddev / 159, of the deviation half a percent or less
    assert x.mean() == pytest.approx(mean, abs=5 * stddev / 159)
    assert x.std() == pytest.approx(stddev, rel=0.025)
    if name == "glorot":
        assert np.abs(x).max() <= stddev * 3**0.5
        assert np.abs(x).max() > 0.999 * stddev * 3**0.5


def test_a_key_gives_the_same_numbers_and_another_key_others():
    one, again, other = (np.asarray(he_normal_fan_out(jax.random.key(seed), (2, 3), jnp.float32)) for seed in (1, 1, 2))
    np.testing.assert_array_equal(one, again)
    assert np.abs(one - other).min() > 0
    raw = he_normal_fan_out(jax.random.PRNGKey(1), (2, 3), jnp.float32)
    np.testing.assert_array_equal(raw, one)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_dtype(dtype):
    assert normal(1.0)(nnx.Rngs(0).params(), (2, 3), dtype).dtype == dtype
    with jax.enable_x64(True):
        assert normal(1.0)(nnx.Rngs(0).params(), (2, 3), jnp.float64).dtype == jnp.float64
