"""Relative embedding tables: for maps of another size than they were made for, by pair of coordinates, and checked."""

from collections.abc import Sequence
from typing import Any, Literal, get_args

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

TableResize = Literal["linear", "clamp", "error"]


def resize_relative_table(
    table: Float[Array, "rows dk"], length: int, *, method: TableResize = "linear"
) -> Float[Array, "2*{length}-1 dk"]:
    """Return the table of offsets -(length-1) .. length-1, made from a table for another length.

    A table for length l has 2l-1 rows, row o + l - 1 for offset o = key - query. Smaller maps have only small offsets,
    so their rows are a slice and the result is exact. Larger maps have offsets that were never trained; the paper does
    not say what to do with them:

    * "linear": the offset axis is stretched until its outermost offsets are those needed, and rows are interpolated;
    * "clamp": an offset beyond the table takes the outermost row, offsets within it keep theirs;
    * "error": ValueError.

    Raises:
        ValueError: an unknown method, an even number of rows, a length below 1, or a larger map with "error".
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
    """Return the row `key - query + length - 1` of each pair of coordinates, from a table of 2*length-1 rows.

    It uses no indices, because a GPU sums the gradient of indexing in any order, differently in every run. Instead the
    table is repeated; the rows of each query begin one row less than a period after those of the query before.
    """
    rows, depth = table.shape
    length = (rows + 1) // 2
    if length == 1:
        return table[None]
    repeated = jnp.broadcast_to(table, (length, rows, depth)).reshape(-1, depth)
    pairs = repeated[length - 1 :][: length * (rows - 1)].reshape(length, rows - 1, depth)
    return pairs[:, :length]


def both_tables(
    tables: Sequence[Float[Array, "_rows dk"] | None], size: Sequence[int], depth: int, dtype: Any
) -> tuple[Array | None, Array | None]:
    """Return the two tables of a map of `size` (height, width), zeros for one that is missing beside the other.

    Zeros add nothing to a logit; so implementations need not know that an axis may have no position.
    """
    height, width = tables
    if height is None and width is None:
        return None, None
    rows = (jnp.zeros((2 * length - 1, depth), dtype) for length in size)
    height, width = (zeros if table is None else table for table, zeros in zip(tables, rows, strict=True))
    return height, width


def check_tables(rel_height: Array | None, rel_width: Array | None, size: tuple[int, int], depth: int) -> None:
    """Raise a ValueError unless both tables are None, or fit a map of `size` (height, width) and a depth per head."""
    if (rel_height is None) != (rel_width is None):
        raise ValueError("rel_height and rel_width must both be given or both be None")
    for name, table, length in zip(("rel_height", "rel_width"), (rel_height, rel_width), size, strict=True):
        if table is not None and table.shape != (2 * length - 1, depth):
            raise ValueError(
                f"{name} must have shape {(2 * length - 1, depth)} for a {size[0]}x{size[1]} map, got {table.shape}"
            )
