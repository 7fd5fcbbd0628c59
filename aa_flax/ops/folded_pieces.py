"""Relative attention piece by piece, so that the weights of a whole batch never exist at once.

It computes the same as `folded`, in plain XLA, but over some images and heads at a time, and over some queries at a
time if even one head of one image has too many weights. The backward pass is written by hand and computes the weights
again from the largest logits and the logarithms of the sums (Dao et al., 2022, section 3.1, keep both as one number).
So between the passes only queries, keys, values, tables, the output and these two are kept: memory grows with h·w and
not with its square.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax.export import is_symbolic_dim
from jaxtyping import Array, Float

from aa_flax.ops import piece
from aa_flax.ops.folded import folded
from aa_flax.ops.mesh import shares
from aa_flax.ops.pieces import Budget, Pieces, budget
from aa_flax.ops.scaling import with_positive_scale
from aa_flax.ops.tables import by_pair
from aa_flax.precision import at_least_float32


def folded_pieces(
    query: Float[Array, "b h w n dk"],
    key: Float[Array, "b h w n dk"],
    value: Float[Array, "b h w n dv"],
    rel_height: Float[Array, "_rows dk"] | None,
    rel_width: Float[Array, "_columns dk"] | None,
    scale: float,
) -> Float[Array, "b h w n dv"]:
    """Return relative attention, in pieces if all weights together exceed the budget of `aa_flax.ops.pieces`.

    Under an ambient mesh the images are split over the devices of its axis "data" and the heads over those of "model",
    if these divide their numbers. In pieces it has no forward-mode derivatives.
    """
    tables = () if rel_height is None or rel_width is None else (rel_height, rel_width)
    share = shares(query)
    kind = _image_by_image if share.unknown else _attend
    if is_symbolic_dim(query.shape[0]):
        kind = _one_after_another
    attend = functools.partial(kind, scale=scale, budget=budget())
    return share.over(attend, len(tables))(query, key, value, *tables)


def _image_by_image(query: Array, key: Array, value: Array, *tables: Array, scale: float, budget: Budget) -> Array:
    """Compute attention with the images as an axis of every operation, which the compiler can split over devices.

    Before a loop over images, the compiler would gather all of them on each device.
    """
    attend = functools.partial(_attend, scale=scale, budget=budget.of_each(len(query)))

    def one(query: Array, key: Array, value: Array) -> Array:
        return attend(query[None], key[None], value[None], *tables)[0]

    return jax.vmap(one)(query, key, value)


def _one_after_another(query: Array, key: Array, value: Array, *tables: Array, scale: float, budget: Budget) -> Array:
    """Compute attention in a loop over images, for a batch whose size `jax.export` leaves open."""
    attend = functools.partial(_attend, scale=scale, budget=budget)
    return jax.lax.map(lambda image: attend(*(x[None] for x in image), *tables)[0], (query, key, value))


def _attend(query: Array, key: Array, value: Array, *tables: Array, scale: float, budget: Budget) -> Array:
    b, h, w, n, _ = query.shape
    itemsize = at_least_float32(query.dtype).itemsize
    if b * n * (h * w) ** 2 * itemsize <= budget.whole:
        rel_height, rel_width = tables or (None, None)
        return folded(query, key, value, rel_height, rel_width, scale)
    query, key, value, *tables = _varying_alike(query, key, value, *tables)  # type: ignore[assignment]
    query, scale = with_positive_scale(query, scale)
    pieces = Pieces.within(budget.piece, b * n, h, w, itemsize)
    maps, height, width = pieces.filled
    query, key, value = (x.transpose(0, 3, 4, 1, 2).reshape(b * n, -1, h, w) for x in (query, key, value))
    query = _filled(query, maps, height, width)
    key, value = (_filled(x, maps, h, w).reshape(maps, -1, h * w) for x in (key, value))
    pairs = tuple(
        jnp.pad(by_pair(table), ((0, filled - length), (0, 0), (0, 0)))
        for table, length, filled in zip(tables, (h, w), (height, width), strict=False)
    )
    output = _in_pieces(scale, pieces, query, key, value, pairs)[: b * n, :, :h, :w]
    return output.reshape(b, n, -1, h, w).transpose(0, 3, 4, 1, 2)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _in_pieces(
    scale: float,
    pieces: Pieces,
    query: Float[Array, "m dk y x"],
    key: Float[Array, "m dk j"],
    value: Float[Array, "m dv j"],
    tables: piece.Tables,
) -> Float[Array, "m dv y x"]:
    """Return attention of arrays that are padded with zeros to whole pieces."""
    return _forward(scale, pieces, query, key, value, tables)[0]


def _forward(
    scale: float, pieces: Pieces, query: Array, key: Array, value: Array, tables: piece.Tables
) -> tuple[Array, Any]:
    size = (pieces.height, pieces.width)

    def step(index: Array, written: tuple[Array, Array]) -> tuple[Array, Array]:
        at = _Place(pieces, index)
        own = (at.block(query), at.group(key), at.group(value), at.own(tables))
        found = piece.forward(*own, scale, size, index >= 0)
        return tuple(at.write(whole, part) for whole, part in zip(written, found, strict=True))  # type: ignore[return-value]

    def zeros(channels: int, dtype: Any) -> Array:
        maps, _, *size = query.shape
        return jnp.zeros_like(jnp.broadcast_to(query[:, :1], (maps, channels, *size)), dtype)

    output = zeros(value.shape[1], query.dtype)
    sums = zeros(2, at_least_float32(query.dtype))
    kept = jax.lax.fori_loop(0, pieces.count, step, (output, sums))
    return kept[0], (query, key, value, tables, kept)


def _backward(scale: float, pieces: Pieces, residuals: Any, cotangent: Array) -> tuple[Array, Array, Array, Any]:
    query, key, value, tables, kept = residuals
    size = (pieces.height, pieces.width)

    def step(index: Array, sums: Any) -> Any:
        at = _Place(pieces, index)
        own = (at.block(query), at.group(key), at.group(value), at.own(tables))
        passed = (at.block(kept[0]), at.block(kept[1]))
        by_query, by_key, by_value, by_tables = piece.backward(
            *own, passed, at.block(cotangent), scale, size, index >= 0
        )
        return (
            at.write(sums[0], by_query),
            at.gather(sums[1], by_key),
            at.gather(sums[2], by_value),
            at.add(sums[3], by_tables),
        )

    dtype = at_least_float32(query.dtype)
    # A query lies in one piece; the gradients of keys, values and tables are summed over several, in full precision.
    sums = jax.tree.map(lambda x: jnp.zeros_like(x, dtype), (key, value, tables))
    found = jax.lax.fori_loop(0, pieces.count, step, (jnp.zeros_like(query), *sums))
    return jax.tree.map(lambda x, like: x.astype(like.dtype), found, (query, key, value, tables))


_in_pieces.defvjp(_forward, _backward)


class _Place:
    """The part of the arrays that belongs to one piece, and how it is read and written."""

    def __init__(self, pieces: Pieces, index: Array) -> None:
        _, rows, columns = pieces.steps
        self._pieces = pieces
        self._map = index // (rows * columns) * pieces.group
        self._row = index // columns % rows * pieces.rows
        self._column = index % columns * pieces.columns

    def block(self, x: Float[Array, "m d y x"]) -> Float[Array, "g d r c"]:
        """Return the piece's queries."""
        pieces = self._pieces
        sizes = (pieces.group, x.shape[1], pieces.rows, pieces.columns)
        return jax.lax.dynamic_slice(x, (self._map, 0, self._row, self._column), sizes)

    def group(self, x: Float[Array, "m d j"]) -> Float[Array, "g d j"]:
        """Return the piece's keys or values."""
        return jax.lax.dynamic_slice_in_dim(x, self._map, self._pieces.group)

    def own(self, tables: piece.Tables) -> piece.Tables:
        """Return the tables' rows for the piece's queries."""
        starts = zip(tables, (self._row, self._column), (self._pieces.rows, self._pieces.columns), strict=False)
        return tuple(jax.lax.dynamic_slice_in_dim(table, start, size) for table, start, size in starts)

    def write(self, whole: Array, part: Array) -> Array:
        """Return `whole` with the piece's queries replaced by `part`."""
        part = part.astype(whole.dtype)
        return jax.lax.dynamic_update_slice(whole, part, (self._map, 0, self._row, self._column))

    def gather(self, whole: Array, part: Array) -> Array:
        """Return `whole` with `part` written to the piece's keys or values, or added if other pieces have the same."""
        if self._pieces.parts_maps:
            part = part + self.group(whole)
        return jax.lax.dynamic_update_slice_in_dim(whole, part, self._map, 0)

    def add(self, tables: piece.Tables, parts: piece.Tables) -> piece.Tables:
        """Return `tables` with `parts` added to the rows for the piece's queries."""
        sums = (part + old for part, old in zip(parts, self.own(tables), strict=True))
        starts = (self._row, self._column)
        return tuple(
            jax.lax.dynamic_update_slice_in_dim(table, part, start, 0)
            for table, part, start in zip(tables, sums, starts, strict=False)
        )


def _filled(x: Float[Array, "m d h w"], maps: int, height: int, width: int) -> Array:
    """Return `x` padded with zeros to these sizes."""
    m, _, h, w = x.shape
    if (m, h, w) == (maps, height, width):
        return x
    return jnp.pad(x, ((0, maps - m), (0, 0), (0, height - h), (0, width - w)))


def _varying_alike(*arrays: Array) -> tuple[Array, ...]:
    """Return the same arrays; inside a `shard_map` all are typed as varying over the devices if one of them is."""
    if not jax.sharding.get_abstract_mesh().manual_axes:
        return arrays
    nothing = sum(jnp.zeros_like(x).sum() for x in arrays)
    return tuple(x + nothing for x in arrays)
