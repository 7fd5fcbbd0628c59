"""Addition of a map to some of the channels of another."""

import jax.numpy as jnp
from jaxtyping import Array, Float


def add_to_last_channels(x: Float[Array, "b *space c"], y: Float[Array, "b *space d"]) -> Float[Array, "b *space c"]:
    """Return `x` with `y` added to its last d channels."""
    return x + jnp.pad(y, (*((0, 0),) * (y.ndim - 1), (x.shape[-1] - y.shape[-1], 0)))
