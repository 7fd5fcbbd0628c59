"""Mathematics of one tile of queries and one of keys in the kernels, on values in registers."""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental.pallas import triton
from jaxtyping import Array

from aa_flax.ops.pallas_gpu.shape import Shape

LOWEST = -1e30


@dataclass(frozen=True)
class Tile:
    """Locations along one row (queries) or column (keys) of the map; those beyond its end repeat the last."""

    line: Any  # index of the row or of the column
    part: Any  # index of the tile in that row or column
    along: Array  # coordinate of each location along the row or column
    inside: Array  # whether the location is in the map
    place: Array  # index of the location in the map


def divided(number: Any, by: int) -> tuple[Any, Any]:
    """Return the quotient and the remainder of a number that is not negative."""
    return (number, 0) if by == 1 else (jax.lax.div(number, by), jax.lax.rem(number, by))


def query_columns(shape: Shape, part: Any) -> Array:
    """Return the columns of the map in the `part`-th tile of a row."""
    return part * shape.query_tile + jnp.arange(shape.query_tile)


def key_rows(shape: Shape, part: Any) -> Array:
    """Return the rows of the map in the `part`-th tile of a column."""
    return part * shape.key_tile + jnp.arange(shape.key_tile)


def query_tile(shape: Shape, row: Any, part: Any) -> Tile:
    """Return a tile of queries: part of a row of the map."""
    column = query_columns(shape, part)
    inside = column < shape.width
    column = jnp.minimum(column, shape.width - 1)
    return Tile(row, part, column, inside, row * shape.width + column)


def key_tile(shape: Shape, column: Any, part: Any) -> Tile:
    """Return a tile of keys: part of a column of the map."""
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
        """The numbers of the columns, 0, 1, ... `size` - 1."""
        return jnp.arange(self.size)

    @property
    def inside(self) -> Array:
        """Return which of the columns are the head's and not padding."""
        return self.number < self.depth


def queries_of(shape: Shape, head: Any) -> Columns:
    """Return the columns of a head's queries in an array of queries, keys and values."""
    return Columns(head * shape.key_depth, shape.key_depth, shape.key_columns)


def keys_of(shape: Shape, head: Any) -> Columns:
    """Return the columns of a head's keys in an array of queries, keys and values."""
    return Columns((shape.num_heads + head) * shape.key_depth, shape.key_depth, shape.key_columns)


def values_of(shape: Shape, head: Any) -> Columns:
    """Return the columns of a head's values in an array of queries, keys and values."""
    first = 2 * shape.num_heads * shape.key_depth + head * shape.value_depth
    return Columns(first, shape.value_depth, shape.value_columns)


def outputs_of(shape: Shape, head: Any) -> Columns:
    """Return a head's columns of the output."""
    return Columns(head * shape.value_depth, shape.value_depth, shape.value_columns)


def whole(shape: Shape) -> Columns:
    """Return the columns of a table."""
    return Columns(0, shape.key_depth, shape.key_columns)


def load(ref: Any, rows: Array, columns: Columns, *, only: Array | None = None) -> Array:
    """Return rows of an array, with zeros in the columns that are padding and in rows that `only` excludes."""
    mask = jnp.broadcast_to(columns.inside[None, :], (rows.shape[0], columns.size))
    if only is not None:
        mask &= only[:, None]
    return triton.load(ref.at[rows[:, None], (columns.first + columns.number)[None, :]], mask=mask, other=0.0)


def load_query(shape: Shape, qkv: Any, queries: Tile, head: Any) -> Array:
    """Return a tile of queries, times the scale's sign: -1, 0 or 1."""
    query = load(qkv, queries.place, queries_of(shape, head))
    sign = (shape.scale > 0) - (shape.scale < 0)
    return query if sign == 1 else query * jnp.asarray(sign, query.dtype)


def store(ref: Any, rows: Array, columns: Columns, x: Array, *, only: Array) -> None:
    """Write `x` to the rows of an array that `only` includes, but not its columns that are padding."""
    mask = columns.inside[None, :] & only[:, None]
    # Rows to leave out lie beyond the array: an interpreted kernel writes the old values of masked elements too, which
    # could overwrite new ones.
    rows = jnp.where(only, rows, ref.shape[0])
    triton.store(ref.at[rows[:, None], (columns.first + columns.number)[None, :]], x.astype(ref.dtype), mask=mask)


def product(shape: Shape, left: Array, right: Array, axes: tuple[int, int] = (1, 0)) -> Array:
    """Return the matrix product over `axes` of the two factors, summed in float32."""
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
    """Return 2**x by the one instruction for it; the library's function spends four more on denormal results."""
    return jnp.exp2(x) if shape.interpret else _instruction("ex2.approx.ftz.f32 $0, $1;", x)


def multiply_add(shape: Shape, x: Array, y: Any, z: Array) -> Array:
    """Return x*y + z, rounded once; the compiler does not fuse the two operations by itself."""
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
    """Return the row sums of the elementwise product of two matrices, in float32."""
    return jnp.sum(x.astype(jnp.float32) * y.astype(jnp.float32), 1)


def height_rows(shape: Shape, rel_height: Any, row: Any, keys: Array) -> Array:
    """Return the height's embeddings for queries of one row, one for each key; they depend on the key's row alone."""
    return load(rel_height, jnp.minimum(keys, shape.height - 1) - row + shape.height - 1, whole(shape))


def width_rows(shape: Shape, rel_width: Any, queries: Tile, at: Tile) -> Array:
    """Return the width's embeddings for the queries, one for each query, since the keys lie in one column."""
    return load(rel_width, at.line - queries.along + shape.width - 1, whole(shape))


def width_logits(shape: Shape, rel_width: Any, query: Array, queries: Tile, at: Tile) -> Array:
    """Return the width's term of each query's logits."""
    if not shape.positions:
        return jnp.zeros(shape.query_tile, jnp.float32)
    return row_sums(query, width_rows(shape, rel_width, queries, at))
