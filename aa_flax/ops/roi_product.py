"""RoIAlign as products with matrices, which read whole maps."""

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float

from aa_flax.ops.roi_taps import Taps
from aa_flax.precision import at_least_float32


def multiplied(map_: Float[Array, "b h w c"], rows: Taps, columns: Taps) -> Float[Array, "b n oh ow c"]:
    """Return the bins of boxes on one map: for each box, (matrix of its rows) (map) (matrix of its columns)ᵀ.

    Work grows with the size of the map and not with the number of samples; between the two products stands an array of
    a row of the map for each row of bins of each box. The result is in at least float32.
    """
    wide = at_least_float32(map_.dtype)
    down, across = (
        _matrix(taps, side).astype(wide) for taps, side in ((rows, map_.shape[1]), (columns, map_.shape[2]))
    )
    exact = jax.lax.Precision.HIGHEST
    half = jnp.einsum("bniy,byxc->bnixc", down, map_.astype(wide), precision=exact)
    return jnp.einsum("bnjx,bnixc->bnijc", across, half, precision=exact)


def _matrix(taps: Taps, side: int) -> Float[Array, "b n bins side"]:
    """Return how much each bin takes of each location along an axis: a mean of hat functions."""
    here = taps.index[..., None] == jnp.arange(side, dtype=jnp.int32)
    return jnp.where(here, taps.weight[..., None], 0).sum((1, 2))
