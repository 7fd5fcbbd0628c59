"""Reference implementation of relative attention, index by index: slow and obvious. Every other one must equal it."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from aa_flax.precision import at_least_float32

Tables = Sequence[Float[Array, "_rows dk"] | None]
"""A relative table of 2*size-1 rows for each axis in its order, None for an axis without position."""
_OF_QUERIES, _OF_KEYS = "zyx", "wvu"  # the letters of axes in products


def offset_index(length: int) -> Array:
    """Return the row of a relative table for each (query, key) pair of an axis: `key - query + length - 1`, [l, l]."""
    position = jnp.arange(length)
    return position[None, :] - position[:, None] + length - 1


def attention_logits(
    query: Float[Array, "b *space n dk"], key: Float[Array, "b *space n dk"], tables: Tables, scale: float
) -> Float[Array, "b n *space_and_space"]:
    """Return `scale * q_i·(k_j + the sum over axes a of table_a[j_a - i_a + size_a - 1])` for all pairs.

    They are [b, n, *query's space, *key's space], in at least float32.
    """
    space = query.shape[1:-2]
    at, to = _OF_QUERIES[-len(space) :], _OF_KEYS[-len(space) :]
    dtype = at_least_float32(query.dtype)
    query, key = scale * query.astype(dtype), key.astype(dtype)
    logits = jnp.einsum(f"b{at}nd,b{to}nd->bn{at}{to}", query, key)
    for axis, table in enumerate(tables):
        if table is not None:
            by_pair = table.astype(dtype)[offset_index(space[axis])]  # [query's coordinate, key's coordinate, dk]
            terms = jnp.einsum(f"b{at}nd,{at[axis]}{to[axis]}d->bn{at}{to[axis]}", query, by_pair)
            logits += terms.reshape(*terms.shape[:-1], *_along(axis, space))
    return logits


def attention_weights(
    query: Float[Array, "b *space n dk"],
    key: Float[Array, "b *space n dk"],
    tables: Tables,
    scale: float,
    valid: Bool[Array, "b *space"] | None = None,
) -> Float[Array, "b n *space_and_space"]:
    """Return the softmax of `attention_logits` over all keys jointly that are `valid`, 0 where none is."""
    logits = attention_logits(query, key, tables, scale)
    return _softmax(logits, query.ndim - 3, valid)


def attention(
    query: Float[Array, "b *space n dk"],
    key: Float[Array, "b *space n dk"],
    value: Float[Array, "b *space n dv"],
    tables: Tables,
    scale: float,
    valid: Bool[Array, "b *space"] | None = None,
) -> Float[Array, "b *space n dv"]:
    """Return attention as the paper's equations 3 and 4 state it (Bello et al., 2019, section 3), over any space."""
    weights = attention_weights(query, key, tables, scale, valid)
    at, to = (letters[-(query.ndim - 3) :] for letters in (_OF_QUERIES, _OF_KEYS))
    return jnp.einsum(f"bn{at}{to},b{to}nd->b{at}nd", weights, value.astype(weights.dtype)).astype(value.dtype)


def reference(
    query: Float[Array, "b h w n dk"],
    key: Float[Array, "b h w n dk"],
    value: Float[Array, "b h w n dv"],
    rel_height: Float[Array, "_rows dk"] | None,
    rel_width: Float[Array, "_columns dk"] | None,
    scale: float,
) -> Float[Array, "b h w n dv"]:
    """Return `attention` over a map, with the arguments of every implementation."""
    return attention(query, key, value, (rel_height, rel_width), scale)


def attention_weights_at(
    query: Float[Array, "b q n dk"],
    positions: Int[np.ndarray, "q _axes"],
    key: Float[Array, "b *space n dk"],
    tables: Tables,
    scale: float,
    valid: Bool[Array, "b *space"] | None = None,
) -> Float[Array, "b n q *space"]:
    """Return `attention_weights` of a few queries only, which lie at the coordinates `positions`."""
    space = key.shape[1:-2]
    to = _OF_KEYS[-len(space) :]
    dtype = at_least_float32(query.dtype)
    query = scale * query.astype(dtype)
    logits = jnp.einsum(f"bqnd,b{to}nd->bnq{to}", query, key.astype(dtype))
    for axis, table in enumerate(tables):
        if table is not None:
            by_pair = table.astype(dtype)[offset_index(space[axis])[positions[:, axis]]]  # [q, key's coordinate, dk]
            terms = jnp.einsum("bqnd,qkd->bnqk", query, by_pair)
            logits += terms.reshape(*terms.shape[:-1], *_along(axis, space))
    return _softmax(logits, len(space), valid)


def _along(axis: int, space: tuple[int, ...]) -> list[int]:
    """Return the shape of a space in which only one axis is longer than 1."""
    return [length if other == axis else 1 for other, length in enumerate(space)]


def _softmax(logits: Array, axes: int, valid: Array | None) -> Array:
    """Return the softmax over the last `axes` axes, those of the keys."""
    last = tuple(range(-axes, 0))
    if valid is None:
        return jax.nn.softmax(logits, axis=last)
    seen = valid.reshape(valid.shape[0], *(1,) * (logits.ndim - 1 - axes), *valid.shape[1:])
    weights = jax.nn.softmax(jnp.where(seen, logits, jnp.finfo(logits.dtype).min), axis=last)
    return jnp.where(seen, weights, 0)
