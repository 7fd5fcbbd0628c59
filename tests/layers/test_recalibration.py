import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from aa_flax.layers import GatherExcite, SqueezeExcite


@pytest.mark.parametrize("use_bias", [True, False])
def test_squeeze_excite_is_the_gate_of_the_means(rng, use_bias):
    layer = SqueezeExcite(12, reduction=4, use_bias=use_bias, rngs=nnx.Rngs(0))
    if use_bias:
        layer.squeeze.bias[...] = jnp.asarray(rng.normal(size=3), jnp.float32)
        layer.excite.bias[...] = jnp.asarray(rng.normal(size=12), jnp.float32)
    x = rng.normal(size=(2, 3, 5, 12)).astype(np.float32)
    state = jax.tree.map(np.asarray, nnx.to_pure_dict(nnx.state(layer)))
    hidden = x.mean((1, 2)) @ state["squeeze"]["kernel"] + state["squeeze"].get("bias", 0)
    logits = np.maximum(hidden, 0) @ state["excite"]["kernel"] + state["excite"].get("bias", 0)
    expected = x / (1 + np.exp(-logits))[:, None, None, :]
    np.testing.assert_allclose(layer(jnp.asarray(x)), expected, rtol=1e-5, atol=1e-6)
    count = sum(x.size for x in jax.tree.leaves(state))
    assert count == 2 * 12 * 3 + (3 + 12) * use_bias


def test_squeeze_excite_keeps_one_hidden_unit():
    assert SqueezeExcite(5, reduction=16, rngs=nnx.Rngs(0)).squeeze.kernel.shape == (5, 1)
    with pytest.raises(ValueError, match="reduction must be at least 1, got 0"):
        SqueezeExcite(5, reduction=0, rngs=nnx.Rngs(0))


def test_gather_excite_has_no_parameters(rng):
    layer = GatherExcite()
    x = rng.normal(size=(2, 3, 5, 7)).astype(np.float32)
    expected = x / (1 + np.exp(-x.mean((1, 2), keepdims=True)))
    np.testing.assert_allclose(layer(jnp.asarray(x)), expected, rtol=1e-5, atol=1e-6)
    assert not jax.tree.leaves(nnx.state(layer))
