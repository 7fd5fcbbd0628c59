"""Relative embedding tables for maps of another size than the one they were made for."""

from typing import Literal, get_args

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

TableResize = Literal["linear", "clamp", "error"]


def resize_relative_table(
    table: Float[Array, "rows dk"], length: int, *, method: TableResize = "linear"
) -> Float[Array, "2*{length}-1 dk"]:
    """The table of offsets -(length-1) .. length-1, from one made for another length.

    A table for length l has 2l-1 rows, row o + l - 1 for offset o = key - query. Smaller maps only ever meet small
    offsets, so their rows are a slice and the result is exact. Larger maps meet offsets that were never trained; the
    paper is silent on them:

    * "linear": the offset axis is stretched, the outermost offsets onto the outermost, and rows are interpolated;
    * "clamp": an offset beyond the table takes the outermost row, offsets within it keep theirs;
    * "error": ValueError.
    """
    if method not in get_args(TableResize):
        raise ValueError(f"table_resize must be one of {get_args(TableResize)}, got {method!r}")
    rows = table.shape[0]
    if rows % 2 == 0:
        raise ValueError(f"a relative table must have an odd number of rows, 2*length-1, got {rows}")
    if length < 1:
        raise ValueError(f"length must be at least 1, got {length}")
    made_for = (rows + 1) // 2
    if length <= made_for:
        return table[made_for - length : made_for + length - 1]
    if method == "error":
        raise ValueError(f"the relative table serves maps up to {made_for} long, got {length} (table_resize='error')")
    offsets = np.arange(-(length - 1), length, dtype=np.float64)
    if method == "linear":
        offsets = offsets * (made_for - 1) / (length - 1)
    position = np.clip(offsets + made_for - 1, 0, rows - 1)
    below = np.floor(position).astype(np.int32)
    above = np.minimum(below + 1, rows - 1)
    fraction = jnp.asarray(position - below, table.dtype)[:, None]
    return table[below] * (1 - fraction) + table[above] * fraction


def by_pair(table: Float[Array, "offset dk"]) -> Float[Array, "query key dk"]:
    """The row of each pair of coordinates, key - query + length - 1, from a table of 2*length-1 rows.

    Without indices, whose gradient a GPU sums in any order, differently in every run. Where the rows repeat, those of
    the next query begin one row short of a period on.
    """
    rows, depth = table.shape
    length = (rows + 1) // 2
    if length == 1:
        return table[None]
    repeated = jnp.broadcast_to(table, (length, rows, depth)).reshape(-1, depth)
    pairs = repeated[length - 1 :][: length * (rows - 1)].reshape(length, rows - 1, depth)
    return pairs[:, :length]


def check_tables(rel_height: Array | None, rel_width: Array | None, size: tuple[int, int], depth: int) -> None:
    """ValueError unless the tables are those of a map of `size` (height, width) and a depth per head, or both None."""
    if (rel_height is None) != (rel_width is None):
        raise ValueError("rel_height and rel_width must both be given or both be None")
    for name, table, length in zip(("rel_height", "rel_width"), (rel_height, rel_width), size, strict=True):
        if table is not None and table.shape != (2 * length - 1, depth):
            raise ValueError(
                f"{name} must have shape {(2 * length - 1, depth)} for a {size[0]}x{size[1]} map, got {table.shape}"
            )
