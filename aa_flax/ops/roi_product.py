"""RoIAlign as products: for each box, (matrix of its rows) (map) (matrix of its columns)ᵀ.

Work grows with the size of the maps and not with the number of samples, and every box is multiplied with every map.
Between the two products stands an array of a row of the map for each row of bins of each box.
"""

import functools
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float

from aa_flax.ops.roi_taps import Reads, Taps
from aa_flax.precision import at_least_float32

_einsum = functools.partial(jnp.einsum, precision=jax.lax.Precision.HIGHEST)


def multiply(maps: Sequence[Array], reads: Reads) -> Float[Array, "b n oh ow c"]:
    """Return the bins of boxes.

    Args:
        maps: [b, h, w, c] each.
        reads: what of them.
    """
    wide = at_least_float32(maps[0].dtype)
    total: Any = 0
    for each, (down, across) in zip(maps, _matrices(maps, reads, wide), strict=True):
        half = _einsum("bniy,byxc->bnixc", down, each.astype(wide))
        total += _einsum("bnjx,bnixc->bnijc", across, half)
    return total.astype(maps[0].dtype)


def multiply_back(cotangent: Float[Array, "b n oh ow c"], like: Sequence[Array], reads: Reads) -> list[Array]:
    """Return the gradients by maps of the shapes of `like`, but for the batch: the transpose of `multiply`."""
    wide, gradients = at_least_float32(cotangent.dtype), []
    for down, across in _matrices(like, reads, wide):
        half = _einsum("bnjx,bnijc->bnixc", across, cotangent.astype(wide))
        gradients.append(_einsum("bniy,bnixc->byxc", down, half).astype(cotangent.dtype))
    return gradients


def _matrices(maps: Sequence[Array], reads: Reads, dtype: Any) -> Iterator[tuple[Array, Array]]:
    """Yield for each map the matrices of rows and of columns; boxes of other maps have rows of 0."""
    for number, each in enumerate(maps):
        down, across = (
            _matrix(taps, side).astype(dtype) for taps, side in zip(reads[1:], each.shape[1:3], strict=True)
        )
        yield jnp.where((reads.level == number)[..., None, None], down, 0), across


def _matrix(taps: Taps, side: int) -> Float[Array, "b n bins side"]:
    """Return how much each bin takes of each location along an axis: a mean of hat functions."""
    here = taps.location[..., None] == jnp.arange(side, dtype=jnp.int32).reshape(1, 1, 1, 1, 1, side)
    return jnp.where(here, taps.weight[..., None], 0).sum((1, 2))
