"""How a batch is cut into micro-batches, whose gradients are added before the optimiser's step."""

import jax.numpy as jnp
from jaxtyping import Array, Int32


def cut(x: Array, pieces: int) -> Array:
    """Return values [b, ...] of a batch as those of its micro-batches, [pieces, b / pieces, ...].

    Every `pieces`-th example goes to the same micro-batch, so that a batch split over devices stays in place.
    """
    return x.reshape(x.shape[0] // pieces, pieces, *x.shape[1:]).swapaxes(0, 1)


def piece_of_each(batch_size: int, pieces: int) -> Int32[Array, " b"]:
    """Return the number, from 0 on, of the micro-batch that each example of a batch goes to."""
    return jnp.arange(batch_size, dtype=jnp.int32) % pieces
