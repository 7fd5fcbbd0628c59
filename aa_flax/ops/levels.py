"""Numbers of a dense detector that lie in maps of several levels, as one row for each anchor."""

from collections.abc import Iterable

import jax.numpy as jnp
from jaxtyping import Array, Float


def join_levels(maps: Iterable[Float[Array, "b _h _w _c"]], numbers: int) -> Float[Array, "b anchors {numbers}"]:
    """Return the numbers of each anchor, from maps that have `numbers` for each anchor of a place.

    The order is level, row, column, anchor of the place. On a mesh with Explicit axes the batch may be split.
    """
    joined = []
    for x in maps:
        batch, height, width, channels = x.shape
        # Two steps: where types say how a batch is split, one that both splits and merges axes is refused.
        anchors = x.reshape(batch, height, width, channels // numbers, numbers)
        joined.append(anchors.reshape(batch, height * width * (channels // numbers), numbers))
    return jnp.concatenate(joined, 1)
