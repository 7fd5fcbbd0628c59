"""What the kernels do with one tile of queries and one of keys, on values in registers."""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental.pallas import triton
from jaxtyping import Array

from aa_flax.ops.pallas_gpu.shape import Shape

LOG2_E = 1.4426950408889634
LOWEST = -1e30


@dataclass(frozen=True)
class Tile:
    """Places of the map, along one of its rows (queries) or columns (keys); those beyond its end repeat the last."""

    line: Any  # the row, or the column
    part: Any  # which tile of it
    along: Array  # coordinate of each place along it
    inside: Array  # whether the place is in the map
    place: Array  # its number in the map


def divided(number: Any, by: int) -> tuple[Any, Any]:
    """Quotient and rest of a number that is not negative."""
    return (number, 0) if by == 1 else (jax.lax.div(number, by), jax.lax.rem(number, by))


def query_columns(shape: Shape, part: Any) -> Array:
    """Columns of the map in the `part`-th tile of a row."""
    return part * shape.query_tile + jnp.arange(shape.query_tile)


def key_rows(shape: Shape, part: Any) -> Array:
    """Rows of the map in the `part`-th tile of a column."""
    return part * shape.key_tile + jnp.arange(shape.key_tile)


def query_tile(shape: Shape, row: Any, part: Any) -> Tile:
    """A tile of queries: part of a row of the map."""
    column = query_columns(shape, part)
    inside = column < shape.width
    column = jnp.minimum(column, shape.width - 1)
    return Tile(row, part, column, inside, row * shape.width + column)


def key_tile(shape: Shape, column: Any, part: Any) -> Tile:
    """A tile of keys: part of a column of the map."""
    row = key_rows(shape, part)
    inside = row < shape.height
    row = jnp.minimum(row, shape.height - 1)
    return Tile(column, part, row, inside, row * shape.width + column)


@dataclass(frozen=True)
class Columns:
    """Columns of an array that hold one head's queries, keys or values, padded to a power of two."""

    first: Any
    depth: int
    size: int

    @property
    def number(self) -> Array:
        """0, 1, ... `size` - 1."""
        return jnp.arange(self.size)

    @property
    def inside(self) -> Array:
        """Which of them are the head's."""
        return self.number < self.depth


def queries_of(shape: Shape, head: Any) -> Columns:
    """A head's queries in an array of queries, keys and values."""
    return Columns(head * shape.key_depth, shape.key_depth, shape.key_columns)


def keys_of(shape: Shape, head: Any) -> Columns:
    """A head's keys in an array of queries, keys and values."""
    return Columns((shape.num_heads + head) * shape.key_depth, shape.key_depth, shape.key_columns)


def values_of(shape: Shape, head: Any) -> Columns:
    """A head's values in an array of queries, keys and values."""
    first = 2 * shape.num_heads * shape.key_depth + head * shape.value_depth
    return Columns(first, shape.value_depth, shape.value_columns)


def outputs_of(shape: Shape, head: Any) -> Columns:
    """A head's columns of the output."""
    return Columns(head * shape.value_depth, shape.value_depth, shape.value_columns)


def whole(shape: Shape) -> Columns:
    """The columns of a table."""
    return Columns(0, shape.key_depth, shape.key_columns)


def load(ref: Any, rows: Array, columns: Columns, *, only: Array | None = None) -> Array:
    """Rows of an array, zeros in the columns that are padding and in rows that are not wanted."""
    mask = jnp.broadcast_to(columns.inside[None, :], (rows.shape[0], columns.size))
    if only is not None:
        mask &= only[:, None]
    return triton.load(ref.at[rows[:, None], (columns.first + columns.number)[None, :]], mask=mask, other=0.0)


def store(ref: Any, rows: Array, columns: Columns, x: Array, *, only: Array) -> None:
    """The transpose of `load`, for the wanted rows."""
    mask = columns.inside[None, :] & only[:, None]
    rows = jnp.where(only, rows, ref.shape[0])  # interpreted, a masked element is written as it was, last perhaps
    triton.store(ref.at[rows[:, None], (columns.first + columns.number)[None, :]], x.astype(ref.dtype), mask=mask)


def product(shape: Shape, left: Array, right: Array, axes: tuple[int, int] = (1, 0)) -> Array:
    """Matrix product over `axes` of the two factors, summed in float32."""
    contracted = (((axes[0],), (axes[1],)), ((), ()))
    precision = shape.precision if shape.dtype == jnp.float32 else None
    return jax.lax.dot_general(
        left.astype(shape.dtype),
        right.astype(shape.dtype),
        contracted,
        precision=precision,
        preferred_element_type=jnp.float32,
    )


def exp2(shape: Shape, x: Array) -> Array:
    """2**x by the one instruction for it; the library's function spends four more on denormal results."""
    return jnp.exp2(x) if shape.interpret else _instruction("ex2.approx.ftz.f32 $0, $1;", x)


def multiply_add(shape: Shape, x: Array, y: Any, z: Array) -> Array:
    """x*y + z, rounded once: the compiler does not join the two by itself."""
    y, z = jnp.broadcast_to(y, x.shape), jnp.broadcast_to(z, x.shape)
    return x * y + z if shape.interpret else _instruction("fma.rn.f32 $0, $1, $2, $3;", x, y, z)


def _instruction(words: str, *arguments: Array) -> Array:
    result = jax.ShapeDtypeStruct(arguments[0].shape, jnp.float32)
    constraints = "=f" + ",f" * len(arguments)
    (found,) = triton.elementwise_inline_asm(
        words, args=arguments, constraints=constraints, pack=1, result_shape_dtypes=[result]
    )
    return found


def row_sums(x: Array, y: Array) -> Array:
    """Of the products of two matrices' elements, in float32."""
    return jnp.sum(x.astype(jnp.float32) * y.astype(jnp.float32), 1)


def height_rows(shape: Shape, rel_height: Any, row: Any, keys: Array) -> Array:
    """The height's embeddings that queries of one row meet, one for each key: they depend on its row alone."""
    return load(rel_height, jnp.minimum(keys, shape.height - 1) - row + shape.height - 1, whole(shape))


def width_rows(shape: Shape, rel_width: Any, queries: Tile, at: Tile) -> Array:
    """The width's embeddings that the queries meet, one for each, since the keys lie in one column."""
    return load(rel_width, at.line - queries.along + shape.width - 1, whole(shape))


def width_logits(shape: Shape, rel_width: Any, query: Array, queries: Tile, at: Tile) -> Array:
    """The width's term of each query's logits."""
    if not shape.positions:
        return jnp.zeros(shape.query_tile, jnp.float32)
    return row_sums(query, width_rows(shape, rel_width, queries, at))
