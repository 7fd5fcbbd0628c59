"""Mathematics of one tile of queries in the kernels, on values in registers."""

from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jaxtyping import Array

from aa_flax.ops.pallas_tpu.shape import SUBLANES, Shape, round_up


def product(shape: Shape, left: Array, right: Array, axes: tuple[int, int] = (1, 0)) -> Array:
    """Return the matrix product over `axes` of the two factors, summed in float32."""
    contracted = (((axes[0],), (axes[1],)), ((), ()))
    return jax.lax.dot_general(left, right, contracted, precision=shape.precision, preferred_element_type=jnp.float32)


def masked(x: Array, axis: int, places: int) -> Array:
    """Return `x` with zeros from index `places` on, where a block that exceeds its array holds arbitrary values."""
    if x.shape[axis] == places:
        return x
    place = jax.lax.broadcasted_iota(jnp.int32, x.shape, axis)
    return jnp.where(place < places, x, jnp.zeros_like(x))


def span(index: Any, size: int, count: int) -> Any:
    """Return the `index`-th of `count` spans of lanes."""
    return pl.ds(0, size) if count == 1 else pl.ds(pl.multiple_of(index * size, size), size)


def repeat(count: int, body: Any, carry: Any, *, unroll: bool = False) -> Any:
    """Run `jax.lax.fori_loop`, or for a single step just its body."""
    return body(0, carry) if count == 1 else jax.lax.fori_loop(0, count, body, carry, unroll=unroll)


def _shift(rows: Array, amounts: Array, length: int, *, down: bool) -> Array:
    """Return each lane's rows moved by that lane's amount, below `length`, by one roll for each binary digit."""
    for digit in range((length - 1).bit_length()):
        step = 1 << digit
        moved = pltpu.roll(rows, step if down else rows.shape[0] - step, 0)
        rows = jnp.where((amounts >> digit) & 1 == 1, moved, rows)
    return rows


def fold_queries(shape: Shape, query: Array, tables: list[Array], shifts: Array) -> Array:
    """Fold queries [key_rows, t] to [folded_rows, t]: q, q·rel_width by key column, q·rel_height by key row, ones.

    In the product with a whole table, row o + l - 1 belongs to offset o. Moved up by l - 1 - i for a query at
    coordinate i, row j is the logit with a key at coordinate j.
    """
    parts = [query]
    for axis, (table, length) in enumerate(zip(tables, shape.axes, strict=True)):
        by_offset = product(shape, table, query.astype(shape.dtype))
        by_key = _shift(by_offset, shifts[axis : axis + 1], length, down=False)
        parts.append(by_key[: round_up(length, SUBLANES)])
    parts.append(jnp.ones((SUBLANES, query.shape[1]), jnp.float32))
    return jnp.concatenate(parts, 0).astype(shape.dtype)


def unfold_queries(
    shape: Shape, gradient: Array, query: Array, tables: list[Array], shifts: Array
) -> tuple[Array, list[Array]]:
    """Return the gradients of the queries and of each table: the transpose of `fold_queries`."""
    by_query = gradient[: shape.key_rows]
    by_tables, start = [], shape.key_rows
    for axis, (table, length) in enumerate(zip(tables, shape.axes, strict=True)):
        stop = start + round_up(length, SUBLANES)
        by_key = gradient[start:stop]
        if missing := table.shape[0] - by_key.shape[0]:
            by_key = jnp.concatenate([by_key, jnp.zeros((missing, by_key.shape[1]), by_key.dtype)], 0)
        by_offset = _shift(by_key, shifts[axis : axis + 1], length, down=True).astype(shape.dtype)
        by_query += product(shape, table, by_offset, (0, 0))
        by_tables.append(product(shape, by_offset, query.astype(shape.dtype), (1, 1)))
        start = stop
    return by_query, by_tables


def logits(shape: Shape, keys: Array, queries: Array) -> Array:
    """Return the logits [keys, queries] of folded keys and queries; the queries were scaled before they were folded."""
    return product(shape, keys, queries, (0, 0))


def attend(shape: Shape, queries: Array, keys: Any, values: Any) -> tuple[Array, Array, Array | None]:
    """Compute the softmax over all keys for one tile of folded queries.

    Returns the largest logit of each query [1, t]; the values weighted by the numerators exp(logit - largest) and
    summed, [value_rows, t], whose row of ones became the denominator; and the numerators [keys, t] if all keys are one
    tile, else None. Several tiles of keys go through an online softmax (Milakov and Gimelshein, 2018).
    """
    if shape.key_tiles == 1:
        logit = logits(shape, keys[:, : shape.key_tile], queries)
        largest = logit.max(0, keepdims=True)
        numerators = jnp.exp(logit - largest)
        return largest, product(shape, values[:, : shape.key_tile], numerators.astype(shape.dtype)), numerators

    def one(tile: Any, carry: tuple[Array, Array]) -> tuple[Array, Array]:
        largest, sums = carry
        here = span(tile, shape.key_tile, shape.key_tiles)
        logit = logits(shape, keys[:, here], queries)
        new = jnp.maximum(largest, logit.max(0, keepdims=True))
        added = product(shape, values[:, here], jnp.exp(logit - new).astype(shape.dtype))
        return new, sums * jnp.exp(largest - new) + added

    count = queries.shape[1]
    start = (jnp.full((1, count), -1e30, jnp.float32), jnp.zeros((shape.value_rows, count), jnp.float32))
    largest, sums = jax.lax.fori_loop(0, shape.key_tiles, one, start)
    return largest, sums, None
