"""The kernels of the forward and the backward pass. Logits and weights never leave a program.

A tile of queries lies in a row of the map and a tile of keys in a column, because this makes the position terms cheap.
Within a tile the height's embedding depends on the key alone, so its logits are one more product, the same for all
columns. The width's embedding depends on the query alone, so its logit is one number for each query.

The forward pass has a program for each tile of queries: an online softmax (Milakov and Gimelshein, 2018) over all
tiles of keys. The backward pass has two kinds of programs in one launch. The program of a tile of queries computes the
gradients of the queries and of rel_height; that of a tile of keys computes the gradients of the keys, the values and
rel_width. Both compute the weights again from each query's largest logit and the logarithm of its sum of exponentials;
as one number they would lose the second where the first is large. No two programs add to the same number, so every run
gives the same sums.

Logits are not scaled; their differences from the largest are, to base two, because the hardware computes exp2. Scaled
before, they would be rounded in another way in each pass (`aa_flax.ops.scaling`). All programs add up a logit in the
same order, so that it is the same number in each. A query is multiplied by the scale's sign first.
"""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton
from jaxtyping import Array

from aa_flax.ops.pallas_gpu.shape import Shape
from aa_flax.ops.pallas_gpu.tiles import (
    LOWEST,
    Tile,
    divided,
    exp2,
    height_rows,
    key_rows,
    key_tile,
    keys_of,
    load,
    load_query,
    multiply_add,
    outputs_of,
    product,
    queries_of,
    query_columns,
    query_tile,
    row_sums,
    store,
    values_of,
    whole,
    width_logits,
    width_rows,
)


def _tables(shape: Shape, refs: tuple[Any, ...]) -> tuple[Any, Any, tuple[Any, ...]]:
    return (*refs[:2], refs[2:]) if shape.positions else (None, None, refs)


def _height_logits(shape: Shape, rel_height: Any, query: Array, queries: Tile, segment: Any) -> Array:
    """Return the height's logits of a query tile and a key tile in any column, `LOWEST` for keys outside the map."""
    keys = key_rows(shape, segment)
    logits = jnp.zeros((shape.query_tile, shape.key_tile))
    if shape.positions:
        rows = height_rows(shape, rel_height, queries.line, keys)
        logits = product(shape, query, rows, (1, 1))
    return jnp.where((keys < shape.height)[None, :], logits, LOWEST) if shape.height % shape.key_tile else logits


def forward(shape: Shape, qkv: Any, *refs: Any) -> None:
    """Fill the output [hw, n*dv], the largest logits [n, hw] and the sums' logarithms, for a query tile and a head."""
    rel_height, rel_width, (output, largest_logits, log_sums) = _tables(shape, refs)
    head = pl.program_id(1)
    queries = query_tile(shape, *divided(pl.program_id(0), shape.row_tiles))
    query = load_query(shape, qkv, queries, head)

    def part(segment: Any, carry: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        heights = _height_logits(shape, rel_height, query, queries, segment)

        def step(column: Any, carry: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
            largest, total, sums = carry
            at = key_tile(shape, column, segment)
            key = load(qkv, at.place, keys_of(shape, head))
            value = load(qkv, at.place, values_of(shape, head))
            width = width_logits(shape, rel_width, query, queries, at)
            logits = product(shape, query, key, (1, 1)) + (heights + width[:, None])
            new = jnp.maximum(largest, jnp.max(logits, 1))
            weights = exp2(shape, (logits - new[:, None]) * shape.factor)
            before = exp2(shape, (largest - new) * shape.factor)
            total = multiply_add(shape, total, before, jnp.sum(weights, 1))
            return new, total, multiply_add(shape, sums, before[:, None], product(shape, weights, value))

        return jax.lax.fori_loop(0, shape.width, step, carry)

    nothing = jnp.zeros(shape.query_tile), jnp.zeros((shape.query_tile, shape.value_columns))
    start = jnp.full(shape.query_tile, LOWEST), *nothing
    largest, total, sums = jax.lax.fori_loop(0, shape.column_tiles, part, start)
    store(output, queries.place, outputs_of(shape, head), sums * (1 / total)[:, None], only=queries.inside)
    place = jnp.where(queries.inside, queries.place, shape.places)
    triton.store(largest_logits.at[head, place], largest, mask=queries.inside)
    triton.store(log_sums.at[head, place], jnp.log2(total), mask=queries.inside)


@dataclass(frozen=True)
class _Inputs:
    """Inputs of the backward pass: slope is the output's gradient, means each query's sum of weight * its gradient."""

    qkv: Any
    slope: Any
    largest: Any
    log_sums: Any
    means: Any
    rel_height: Any
    rel_width: Any

    def load_slope(self, shape: Shape, queries: Tile, head: Any) -> Array:
        """Return the output's gradient, zero outside the map, so that queries there contribute nothing."""
        return load(self.slope, queries.place, outputs_of(shape, head), only=queries.inside)

    def load_mean(self, queries: Tile, head: Any) -> Array:
        """Return the queries' means, zero outside the map."""
        return triton.load(self.means.at[queries.place, head], mask=queries.inside, other=0.0)

    def load_sums(self, queries: Tile, head: Any) -> tuple[Array, Array]:
        """Return each query's largest logit, and minus the logarithm of its sum of exponentials."""
        return triton.load(self.largest.at[head, queries.place]), -triton.load(self.log_sums.at[head, queries.place])


def backward(
    shape: Shape, group: int, qkv: Any, slope: Any, largest: Any, log_sums: Any, means: Any, *refs: Any
) -> None:
    """Fill the part of a tile and `group` heads in the gradient of queries, keys and values [hw, n*(2*dk+dv)].

    Fill also their parts of the tables' gradients, unscaled: by_height [row of the query, its tile, row of the key, dk]
    and by_width [column of the key, its tile, column of the query, dk].
    """
    rel_height, rel_width, (by_qkv, *by_tables) = _tables(shape, refs)
    inputs = _Inputs(qkv, slope, largest, log_sums, means, rel_height, rel_width)
    by_height, by_width = by_tables if shape.positions else (None, None)
    number, first = pl.program_id(0), pl.program_id(1) * group

    def each(one: Any, number: Any, by_table: Any) -> None:
        def body(index: Any, carry: Any) -> Any:
            one(shape, inputs, number, first + index, index == 0, by_qkv, by_table)
            return carry

        jax.lax.fori_loop(0, group, body, 0)

    @pl.when(number < shape.query_tiles)
    def _() -> None:
        each(_by_queries, number, by_height)

    @pl.when(number >= shape.query_tiles)
    def _() -> None:
        each(_by_keys, number - shape.query_tiles, by_width)


def _by_queries(
    shape: Shape, inputs: _Inputs, number: Any, head: Any, begins: Any, by_qkv: Any, by_height: Any
) -> None:
    queries = query_tile(shape, *divided(number, shape.row_tiles))
    query = load_query(shape, inputs.qkv, queries, head)
    slope = inputs.load_slope(shape, queries, head)
    mean, (largest, less) = inputs.load_mean(queries, head), inputs.load_sums(queries, head)

    def part(segment: Any, carry: tuple[Array, Array]) -> tuple[Array, Array]:
        heights = _height_logits(shape, inputs.rel_height, query, queries, segment)

        def step(column: Any, carry: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
            by_query, by_rows, by_key_row = carry
            at = key_tile(shape, column, segment)
            key = load(inputs.qkv, at.place, keys_of(shape, head))
            value = load(inputs.qkv, at.place, values_of(shape, head))
            width = jnp.zeros(shape.query_tile, jnp.float32)
            if shape.positions:
                rows = width_rows(shape, inputs.rel_width, queries, at)
                width = row_sums(query, rows)
            logits = product(shape, query, key, (1, 1)) + (heights + width[:, None])
            weights = exp2(shape, multiply_add(shape, logits - largest[:, None], shape.factor, less[:, None]))
            by_logit = weights * (product(shape, slope, value, (1, 1)) - mean[:, None])
            by_query += product(shape, by_logit, key)
            if shape.positions:
                by_rows = multiply_add(shape, rows.astype(jnp.float32), jnp.sum(by_logit, 1)[:, None], by_rows)
                by_key_row += by_logit
            return by_query, by_rows, by_key_row

        zeros = jnp.zeros((shape.query_tile, shape.key_tile))
        by_query, by_rows, by_key_row = jax.lax.fori_loop(0, shape.width, step, (*carry, zeros))
        if shape.positions:
            rows = key_rows(shape, segment)
            by_query += product(shape, by_key_row, height_rows(shape, inputs.rel_height, queries.line, rows))
            added = product(shape, by_key_row, query, (0, 0))
            _add(shape, by_height, (queries.line, queries.part), rows, rows < shape.height, added, begins)
        return by_query, by_rows

    zeros = jnp.zeros((shape.query_tile, shape.key_columns))
    by_query, by_rows = jax.lax.fori_loop(0, shape.column_tiles, part, (zeros, zeros))
    store(by_qkv, queries.place, queries_of(shape, head), (by_query + by_rows) * shape.scale, only=queries.inside)


def _by_keys(shape: Shape, inputs: _Inputs, number: Any, head: Any, begins: Any, by_qkv: Any, by_width: Any) -> None:
    at = key_tile(shape, *divided(number, shape.column_tiles))
    key = load(inputs.qkv, at.place, keys_of(shape, head))
    value = load(inputs.qkv, at.place, values_of(shape, head))

    def part(segment: Any, carry: tuple[Array, Array]) -> tuple[Array, Array]:
        def step(row: Any, carry: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
            by_key, by_value, by_column = carry
            queries = query_tile(shape, row, segment)
            query = load_query(shape, inputs.qkv, queries, head)
            slope = inputs.load_slope(shape, queries, head)
            mean, (largest, less) = inputs.load_mean(queries, head), inputs.load_sums(queries, head)
            logits = product(shape, key, query, (1, 1))
            if shape.positions:
                rows = height_rows(shape, inputs.rel_height, row, at.along)
                column = width_logits(shape, inputs.rel_width, query, queries, at)
                logits += product(shape, rows, query, (1, 1)) + column[None, :]
            weights = exp2(shape, multiply_add(shape, logits - largest[None, :], shape.factor, less[None, :]))
            by_logit = weights * (product(shape, value, slope, (1, 1)) - mean[None, :])
            by_value += product(shape, weights, slope)
            by_key += product(shape, by_logit, query)
            if shape.positions:
                if shape.height % shape.key_tile:
                    by_logit = jnp.where(at.inside[:, None], by_logit, 0.0)
                total = jnp.sum(by_logit, 0)[:, None]
                by_column = multiply_add(shape, query.astype(jnp.float32), total, by_column)
            return by_key, by_value, by_column

        zeros = jnp.zeros((shape.query_tile, shape.key_columns))
        by_key, by_value, by_column = jax.lax.fori_loop(0, shape.height, step, (*carry, zeros))
        if shape.positions:
            columns = query_columns(shape, segment)
            _add(shape, by_width, (at.line, at.part), columns, columns < shape.width, by_column, begins)
        return by_key, by_value

    start = jnp.zeros((shape.key_tile, shape.key_columns)), jnp.zeros((shape.key_tile, shape.value_columns))
    by_key, by_value = jax.lax.fori_loop(0, shape.row_tiles, part, start)
    store(by_qkv, at.place, keys_of(shape, head), by_key * abs(shape.scale), only=at.inside)
    store(by_qkv, at.place, values_of(shape, head), by_value, only=at.inside)


def _add(shape: Shape, ref: Any, part: tuple[Any, Any], rows: Array, inside: Array, x: Array, begins: Any) -> None:
    """Add `x` to rows of a partial sum that this program alone writes; the sum starts with the program's first head."""
    columns = whole(shape)
    mask = inside[:, None] & columns.inside[None, :]
    here = ref.at[*part, rows[:, None], columns.number[None, :]]
    before = triton.load(here, mask=mask & ~begins, other=0.0)
    triton.store(here, before + x, mask=mask)
