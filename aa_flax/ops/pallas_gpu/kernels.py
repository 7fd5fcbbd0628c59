"""The two passes. Logits and weights never leave a program.

Queries are taken from a row of the map and keys from a column, because there the position terms are cheap: the height's
depends on the key alone and is added to the keys, the width's depends on the query alone and is one number for each.

The forward pass has a program for each tile of queries: an online softmax (Milakov and Gimelshein, 2018) over all
tiles of keys. The backward pass has two kinds of program in one launch. Those of a tile of queries make the gradients
by the queries and by rel_height; those of a tile of keys make the gradients by the keys, the values and rel_width. Both
compute the weights again from each query's log-sum-exp. No two programs add to one number: the same sums in every run.

Logits are kept in base two: exp2 is what the hardware computes.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton
from jaxtyping import Array

from aa_flax.ops.pallas_gpu.shape import Shape
from aa_flax.ops.pallas_gpu.tiles import (
    LOG2_E,
    LOWEST,
    Tile,
    divided,
    key_tile,
    keys_of,
    load,
    outputs_of,
    product,
    queries_of,
    query_tile,
    raised_keys,
    row_sums,
    store,
    values_of,
    whole,
    width_logits,
    width_rows,
)


def _tables(shape: Shape, refs: tuple[Any, ...]) -> tuple[Any, Any, tuple[Any, ...]]:
    return (*refs[:2], refs[2:]) if shape.positions else (None, None, refs)


def forward(shape: Shape, qkv: Any, *refs: Any) -> None:
    """Fills the output [hw, n*dv] and the log-sum-exp [n, hw] of a tile of queries and a head."""
    rel_height, rel_width, (output, log_sums) = _tables(shape, refs)
    head = pl.program_id(1)
    queries = query_tile(shape, pl.program_id(0))
    query = load(qkv, queries.place, queries_of(shape, head))
    values, factor = values_of(shape, head), shape.scale * LOG2_E
    ones = (values.number == shape.value_depth)[None, :]

    def step(number: Any, carry: tuple[Array, Array]) -> tuple[Array, Array]:
        largest, sums = carry
        at = key_tile(shape, number)
        key = raised_keys(shape, rel_height, load(qkv, at.place, keys_of(shape, head)), queries, at)
        # Keys beyond the map repeat the last one, which leaves the largest logit alone; they have no value and no one.
        value = load(qkv, at.place, values, only=at.inside)
        value = jnp.where(ones & at.inside[:, None], jnp.ones_like(value), value)
        column = width_logits(shape, rel_width, query, queries, at)
        logits = (product(shape, query, key, (1, 1)) + column[:, None]) * factor
        new = jnp.maximum(largest, jnp.max(logits, 1))
        added = product(shape, jnp.exp2(logits - new[:, None]), value)
        return new, sums * jnp.exp2(largest - new)[:, None] + added

    start = jnp.full(shape.query_tile, LOWEST), jnp.zeros((shape.query_tile, shape.value_columns))
    largest, sums = jax.lax.fori_loop(0, shape.key_tiles, step, start)
    denominator = jnp.sum(jnp.where(ones, sums, 0.0), 1)
    store(output, queries.place, outputs_of(shape, head), sums / denominator[:, None], only=queries.inside)
    place = jnp.where(queries.inside, queries.place, shape.places)
    triton.store(log_sums.at[head, place], largest + jnp.log2(denominator), mask=queries.inside)


def backward(shape: Shape, group: int, qkv: Any, output: Any, log_sums: Any, slope: Any, *refs: Any) -> None:
    """Fills, of the gradient by queries, keys and values [hw, n*(2*dk+dv)], what a tile and `group` heads have.

    And, unscaled, their parts of the tables' gradients: by_height [row of the query, its tile, row of the key, dk],
    by_width [column of the key, its tile, column of the query, dk].
    """
    rel_height, rel_width, (by_qkv, *by_tables) = _tables(shape, refs)
    number, first = pl.program_id(0), pl.program_id(1) * group
    by_height, by_width = by_tables if shape.positions else (None, None)

    @pl.when(number < shape.query_tiles)
    def _() -> None:
        def one(index: Any, carry: Any) -> Any:
            args = qkv, output, log_sums, slope, rel_height, rel_width, by_qkv, by_height
            _by_queries(shape, number, first + index, index == 0, *args)
            return carry

        jax.lax.fori_loop(0, group, one, 0)

    @pl.when(number >= shape.query_tiles)
    def _() -> None:
        def one(index: Any, carry: Any) -> Any:
            args = qkv, output, log_sums, slope, rel_height, rel_width, by_qkv, by_width
            _by_keys(shape, number - shape.query_tiles, first + index, index == 0, *args)
            return carry

        jax.lax.fori_loop(0, group, one, 0)


def _slopes(shape: Shape, output: Any, slope: Any, queries: Tile, head: Any) -> tuple[Array, Array]:
    """The gradient by a head's outputs, zero beyond the map, and its sum over the weights, one for each query."""
    columns = outputs_of(shape, head)
    upstream = load(slope, queries.place, columns, only=queries.inside)
    return upstream, row_sums(upstream, load(output, queries.place, columns))


def _by_queries(
    shape: Shape,
    number: Any,
    head: Any,
    begins: Any,
    qkv: Any,
    output: Any,
    log_sums: Any,
    slope: Any,
    rel_height: Any,
    rel_width: Any,
    by_qkv: Any,
    by_height: Any,
) -> None:
    queries = query_tile(shape, number)
    query = load(qkv, queries.place, queries_of(shape, head))
    upstream, mean = _slopes(shape, output, slope, queries, head)
    log_sum = triton.load(log_sums.at[head, queries.place])
    factor = shape.scale * LOG2_E

    def part(segment: Any, carry: tuple[Array, Array]) -> tuple[Array, Array]:
        def step(column: Any, carry: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
            by_query, by_rows, by_key_row = carry
            at = key_tile(shape, column * shape.column_tiles + segment)
            key = raised_keys(shape, rel_height, load(qkv, at.place, keys_of(shape, head)), queries, at)
            value = load(qkv, at.place, values_of(shape, head))
            logits = product(shape, query, key, (1, 1))
            if shape.positions:
                rows = width_rows(shape, rel_width, queries, at).astype(jnp.float32)
                logits += row_sums(query, rows)[:, None]
            weights = jnp.exp2(logits * factor - log_sum[:, None])
            by_logit = weights * (product(shape, upstream, value, (1, 1)) - mean[:, None])
            if shape.height % shape.key_tile:
                by_logit = jnp.where(at.inside[None, :], by_logit, 0.0)
            by_query += product(shape, by_logit, key)
            if shape.positions:
                by_rows += jnp.sum(by_logit, 1)[:, None] * rows
                by_key_row += by_logit
            return by_query, by_rows, by_key_row

        zeros = jnp.zeros((shape.query_tile, shape.key_tile))
        *carry, by_key_row = jax.lax.fori_loop(0, shape.width, step, (*carry, zeros))
        if shape.positions:
            rows = segment * shape.key_tile + jnp.arange(shape.key_tile)
            added = product(shape, by_key_row, query, (0, 0))
            _add(shape, by_height, divided(number, shape.row_tiles), rows, rows < shape.height, added, begins)
        return tuple(carry)

    zeros = jnp.zeros((shape.query_tile, shape.key_columns))
    by_query, by_rows = jax.lax.fori_loop(0, shape.column_tiles, part, (zeros, zeros))
    store(by_qkv, queries.place, queries_of(shape, head), (by_query + by_rows) * shape.scale, only=queries.inside)


def _by_keys(
    shape: Shape,
    number: Any,
    head: Any,
    begins: Any,
    qkv: Any,
    output: Any,
    log_sums: Any,
    slope: Any,
    rel_height: Any,
    rel_width: Any,
    by_qkv: Any,
    by_width: Any,
) -> None:
    at = key_tile(shape, number)
    plain = load(qkv, at.place, keys_of(shape, head))
    value = load(qkv, at.place, values_of(shape, head))
    factor = shape.scale * LOG2_E

    def part(segment: Any, carry: tuple[Array, Array]) -> tuple[Array, Array]:
        def step(row: Any, carry: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
            by_key, by_value, by_column = carry
            queries = query_tile(shape, row * shape.row_tiles + segment)
            query = load(qkv, queries.place, queries_of(shape, head))
            # Queries beyond the map repeat the last one; without a slope nothing comes of them.
            upstream, mean = _slopes(shape, output, slope, queries, head)
            log_sum = triton.load(log_sums.at[head, queries.place])
            key = raised_keys(shape, rel_height, plain, queries, at)
            column = width_logits(shape, rel_width, query, queries, at)
            logits = product(shape, key, query, (1, 1))
            weights = jnp.exp2(logits * factor + (column * factor - log_sum)[None, :])
            by_logit = weights * (product(shape, value, upstream, (1, 1)) - mean[None, :])
            by_value += product(shape, weights, upstream)
            by_key += product(shape, by_logit, query)
            if shape.positions:
                if shape.height % shape.key_tile:
                    by_logit = jnp.where(at.inside[:, None], by_logit, 0.0)
                by_column += jnp.sum(by_logit, 0)[:, None] * query.astype(jnp.float32)
            return by_key, by_value, by_column

        zeros = jnp.zeros((shape.query_tile, shape.key_columns))
        *carry, by_column = jax.lax.fori_loop(0, shape.height, step, (*carry, zeros))
        if shape.positions:
            columns = segment * shape.query_tile + jnp.arange(shape.query_tile)
            _add(
                shape, by_width, divided(number, shape.column_tiles), columns, columns < shape.width, by_column, begins
            )
        return tuple(carry)

    start = jnp.zeros((shape.key_tile, shape.key_columns)), jnp.zeros((shape.key_tile, shape.value_columns))
    by_key, by_value = jax.lax.fori_loop(0, shape.row_tiles, part, start)
    store(by_qkv, at.place, keys_of(shape, head), by_key * shape.scale, only=at.inside)
    store(by_qkv, at.place, values_of(shape, head), by_value, only=at.inside)


def _add(shape: Shape, ref: Any, part: tuple[Any, Any], rows: Array, inside: Array, x: Array, begins: Any) -> None:
    """Adds to rows of a partial sum that this program alone writes; the first head finds nothing there yet."""
    columns = whole(shape)
    mask = inside[:, None] & columns.inside[None, :]
    here = ref.at[*part, rows[:, None], columns.number[None, :]]
    before = triton.load(here, mask=mask & ~begins, other=0.0)
    triton.store(here, before + x, mask=mask)
