"""A normalisation, given as a factor and a summand for each channel, with its activation."""

import jax
from jaxtyping import Array, Float


def normalized(x: Float[Array, "b h w c"], factor: Float[Array, " c"], summand: Float[Array, " c"]) -> Array:
    """Return relu(x * factor + summand) in the dtype of `x`, computed in that of the factor."""
    by_channel = (None, None, None)
    y = x.astype(factor.dtype) * factor[by_channel] + summand[by_channel]
    return jax.nn.relu(y.astype(x.dtype))
