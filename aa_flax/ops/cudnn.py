"""Relative attention through cuDNN's fused attention on NVIDIA GPUs.

The fold makes it plain attention, so the (h*w)**2 logits never reach memory. cuDNN wants one depth for queries, keys
and values, a multiple of 8, so the folded width and the values are padded with zeros to the same width. Under an
ambient mesh with an axis "data" each device serves its part of the batch.
"""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from aa_flax.ops.folded import fold
from aa_flax.ops.mesh import BATCHED, over_mesh

# Hopper takes 256 too, but its backward pass falls off above 128 and older GPUs take no more.
WIDEST = 128


def folded_width(h: int, w: int, key_depth: int, value_depth: int, positions: bool) -> int:
    """Return the depth of query, key and value as cuDNN sees them: the larger of key and value depth, in steps of 8.

    The key depth has the logits by column and row with it, and a channel more where h*w is odd.
    """
    width = max(key_depth + (h + w if positions else 0) + h * w % 2, value_depth)
    return -(-width // 8) * 8


def cudnn(
    query: Float[Array, "b h w n dk"],
    key: Float[Array, "b h w n dk"],
    value: Float[Array, "b h w n dv"],
    rel_height: Float[Array, "_rows dk"] | None,
    rel_width: Float[Array, "_columns dk"] | None,
    scale: float,
    *,
    engine: str = "cudnn",
) -> Float[Array, "b h w n dv"]:
    """Relative attention by the fold and `jax.nn.dot_product_attention`; `engine="xla"` computes the same anywhere.

    Raises:
        TypeError: dtypes other than float16 and bfloat16.
        ValueError: a folded width dk + h + w (and a channel more at an odd number of places) above 128, a scale of 0
            with an odd number of places, or a batch that the mesh does not divide.
        RuntimeError: no cuDNN, or a GPU that it does not serve.
    """
    b, h, w, n, dv = value.shape
    if query.dtype not in (jnp.bfloat16, jnp.float16):
        raise TypeError(f"implementation 'cudnn' computes in bfloat16 or float16, got {query.dtype.name}; use 'folded'")
    width = folded_width(h, w, query.shape[-1], dv, rel_height is not None)
    if width > WIDEST:
        raise ValueError(
            f"implementation 'cudnn' takes a folded width (key depth + h + w) of at most {WIDEST}, got {width} for a "
            f"{h}x{w} map; take attention_downsample or 'folded'"
        )
    odd = h * w % 2
    if odd and scale == 0:
        raise ValueError(f"implementation 'cudnn' takes no scale of 0 for {h}x{w} places, an odd number; use 'folded'")
    if rel_height is not None and rel_width is not None:
        query, key = fold(query, key, rel_height, rel_width)

    def padded(x: Array) -> Array:
        return jnp.pad(x.reshape(b, h * w, n, -1), ((0, 0), (0, odd), (0, 0), (0, width - x.shape[-1])))

    def attend(*arguments: Array) -> Array:
        return jax.nn.dot_product_attention(*arguments, scale=scale, implementation=engine)  # type: ignore[call-overload]

    arguments = [padded(query), padded(key), padded(value)]
    if odd:
        arguments[:2] = _without_the_last_key(arguments[0], arguments[1], scale)
    try:
        split = over_mesh(attend, b, (BATCHED,) * 3, BATCHED, name="cudnn")
        output = split(*arguments)[:, : h * w]
    except (NotImplementedError, RuntimeError) as error:
        raise RuntimeError(f"implementation 'cudnn' is not to be had here: {error}") from error
    return output[..., :dv].reshape(b, h, w, n, dv)


def _without_the_last_key(query: Array, key: Array, scale: float) -> tuple[Array, Array]:
    """Fill the last channel, zero so far, so that the last key's logits are so low that it gets no weight.

    Both factors are large, because float16 holds no number that is large enough alone for a small scale.
    """
    large = 2.0**15
    channel = jnp.arange(key.shape[3])[None, None, None, :] == key.shape[3] - 1
    last = channel & (jnp.arange(key.shape[1])[None, :, None, None] == key.shape[1] - 1)
    query = jnp.where(channel, jnp.asarray(large, query.dtype), query)
    return query, jnp.where(last, jnp.asarray(-math.copysign(large, scale), key.dtype), key)
