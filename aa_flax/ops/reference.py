"""Reference implementation of relative attention, index by index: slow and obvious. Every other one must equal it."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from aa_flax.precision import at_least_float32


def offset_index(length: int) -> Array:
    """Return the row of a relative table for each (query, key) pair of an axis: `key - query + length - 1`, [l, l]."""
    position = jnp.arange(length)
    return position[None, :] - position[:, None] + length - 1


def attention_logits(
    query: Float[Array, "b h w n dk"],
    key: Float[Array, "b h w n dk"],
    rel_height: Float[Array, "_rows dk"] | None,
    rel_width: Float[Array, "_columns dk"] | None,
    scale: float,
) -> Float[Array, "b n h w h w"]:
    """Return `scale * q_i·(k_j + rel_width[jx-ix+w-1] + rel_height[jy-iy+h-1])` for all pairs, in at least float32."""
    _, h, w, _, _ = query.shape
    dtype = at_least_float32(query.dtype)
    query, key = scale * query.astype(dtype), key.astype(dtype)
    logits = jnp.einsum("byxnd,bvund->bnyxvu", query, key)
    if rel_height is not None and rel_width is not None:
        by_row = rel_height.astype(dtype)[offset_index(h)]  # [query row, key row, dk]
        by_column = rel_width.astype(dtype)[offset_index(w)]  # [query column, key column, dk]
        logits += jnp.einsum("byxnd,yvd->bnyxv", query, by_row)[..., :, None]
        logits += jnp.einsum("byxnd,xud->bnyxu", query, by_column)[..., None, :]
    return logits


def attention_weights(
    query: Float[Array, "b h w n dk"],
    key: Float[Array, "b h w n dk"],
    rel_height: Float[Array, "_rows dk"] | None,
    rel_width: Float[Array, "_columns dk"] | None,
    scale: float,
) -> Float[Array, "b n h w h w"]:
    """Return the softmax of `attention_logits` over all h*w keys jointly."""
    return jax.nn.softmax(attention_logits(query, key, rel_height, rel_width, scale), axis=(-2, -1))


def reference(
    query: Float[Array, "b h w n dk"],
    key: Float[Array, "b h w n dk"],
    value: Float[Array, "b h w n dv"],
    rel_height: Float[Array, "_rows dk"] | None,
    rel_width: Float[Array, "_columns dk"] | None,
    scale: float,
) -> Float[Array, "b h w n dv"]:
    """Return attention as the paper's equations 3 and 4 state it (Bello et al., 2019, section 3)."""
    weights = attention_weights(query, key, rel_height, rel_width, scale)
    return jnp.einsum("bnyxvu,bvund->byxnd", weights, value.astype(weights.dtype)).astype(value.dtype)


def attention_weights_at(
    query: Float[Array, "b q n dk"],
    positions: Int[np.ndarray, "q 2"],
    key: Float[Array, "b h w n dk"],
    rel_height: Float[Array, "_rows dk"] | None,
    rel_width: Float[Array, "_columns dk"] | None,
    scale: float,
) -> Float[Array, "b n q h w"]:
    """Return `attention_weights` of a few queries only, which lie at the (row, column) pairs `positions`."""
    _, h, w, _, _ = key.shape
    dtype = at_least_float32(query.dtype)
    query = scale * query.astype(dtype)
    logits = jnp.einsum("bqnd,bvund->bnqvu", query, key.astype(dtype))
    if rel_height is not None and rel_width is not None:
        by_row = rel_height.astype(dtype)[offset_index(h)[positions[:, 0]]]  # [q, key row, dk]
        by_column = rel_width.astype(dtype)[offset_index(w)[positions[:, 1]]]
        logits += jnp.einsum("bqnd,qvd->bnqv", query, by_row)[..., :, None]
        logits += jnp.einsum("bqnd,qud->bnqu", query, by_column)[..., None, :]
    return jax.nn.softmax(logits, axis=(-2, -1))
