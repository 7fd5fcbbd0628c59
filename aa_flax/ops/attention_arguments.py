"""Checks of the arguments of attention over a space of one to three dimensions."""

from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from aa_flax.ops.axes import AXES, letters, sizes, table_names


def check_arguments(
    query: Array,
    key: Array,
    value: Array,
    tables: Sequence[Array | None] | None,
    valid: Array | None,
    dimensions: int | None = None,
) -> int:
    """Return how many dimensions the space has; raise ValueError or TypeError for arguments that do not fit.

    Args:
        query, key, value, tables, valid: as `relative_attention` takes them.
        dimensions: the number of dimensions that the space must have; None is any of one to three.
    """
    given = np.ndim(query) - 3
    accepted = (dimensions,) if dimensions else tuple(AXES)
    if given not in accepted:
        shapes = " or ".join(f"[b, {letters(each)}, n, dk]" for each in accepted)
        raise ValueError(f"query must have shape {shapes}, got rank {np.ndim(query)}: {np.shape(query)}")
    for name, array, last in (("query", query, "dk"), ("key", key, "dk"), ("value", value, "dv")):
        if np.ndim(array) != given + 3:
            raise ValueError(
                f"{name} must have shape [b, {letters(given)}, n, {last}], got rank {np.ndim(array)}: {np.shape(array)}"
            )
        if not jnp.issubdtype(array.dtype, jnp.floating):
            raise TypeError(f"{name} must be floating, got {array.dtype}")
        if array.dtype != query.dtype:
            raise TypeError(f"{name} must have query's dtype {query.dtype}, got {array.dtype}")
        if 0 in array.shape:
            raise ValueError(f"{name} must not be empty, got shape {array.shape}")
    if key.shape != query.shape:
        raise ValueError(f"key must have query's shape {query.shape}, got {key.shape}")
    if value.shape[:-1] != query.shape[:-1]:
        raise ValueError(f"value must have shape {(*query.shape[:-1], 'dv')} like query, got {value.shape}")
    space, depth = query.shape[1:-2], query.shape[-1]
    if tables is not None:
        _check_tables(tables, space, depth)
    if valid is not None:
        if valid.dtype != jnp.bool_:
            raise TypeError(f"valid must be bool, got {valid.dtype}")
        if valid.shape != query.shape[:-2]:
            raise ValueError(f"valid must have shape {query.shape[:-2]} like query, got {valid.shape}")
    return given


def _check_tables(tables: Sequence[Array | None], space: tuple[int, ...], depth: int) -> None:
    names = table_names(len(space))
    if len(tables) != len(space):
        raise ValueError(
            f"tables must be one for each axis ({', '.join(names)}), each an array or None, got {len(tables)}"
        )
    for name, table, length in zip(names, tables, space, strict=True):
        if table is not None and np.shape(table) != (2 * length - 1, depth):
            rows = f"2{name.removeprefix('rel_')[0]}-1"
            raise ValueError(
                f"{name} must have shape [{rows}, dk] = {(2 * length - 1, depth)} for a {sizes(space)} map, "
                f"got {np.shape(table)}"
            )


def check_queries(queries: np.ndarray, space: tuple[int, ...]) -> None:
    """Raise ValueError unless these are coordinates [q, axes] of locations in a space."""
    axes = len(space)
    if queries.ndim != 2 or queries.shape[1] != axes or (queries < 0).any() or (queries >= space).any():
        what = "(row, column) pairs" if axes == 2 else f"coordinates ({letters(axes)})"
        raise ValueError(f"queries must be {what} inside the {sizes(space)} map, got {queries.tolist()}")
