"""Relative attention through cuDNN's fused attention on NVIDIA GPUs.

The fold makes it plain attention, so the (h*w)**2 logits never reach memory. cuDNN wants one depth for queries, keys
and values, a multiple of 8, so the folded width and the values are padded with zeros to the same width. Under an
ambient mesh with an axis "data" each device serves its part of the batch.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from aa_flax.ops.folded import fold
from aa_flax.ops.mesh import BATCHED, over_mesh

# Hopper takes 256 too, but its backward pass falls off above 128 and older GPUs take no more.
WIDEST = 128


def folded_width(h: int, w: int, key_depth: int, value_depth: int, positions: bool) -> int:
    """Depth of query, key and value as cuDNN sees them: the larger of key and value depth, in steps of 8."""
    width = max(key_depth + (h + w if positions else 0), value_depth)
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
        ValueError: a folded width dk + h + w above 128, or a batch that the mesh does not divide.
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
    if rel_height is not None and rel_width is not None:
        query, key = fold(query, key, rel_height, rel_width)

    def padded(x: Array) -> Array:
        return jnp.pad(x.reshape(b, h * w, n, -1), ((0, 0), (0, 0), (0, 0), (0, width - x.shape[-1])))

    def attend(*arguments: Array) -> Array:
        return jax.nn.dot_product_attention(*arguments, scale=scale, implementation=engine)  # type: ignore[call-overload]

    try:
        split = over_mesh(attend, b, (BATCHED,) * 3, BATCHED, name="cudnn")
        output = split(padded(query), padded(key), padded(value))
    except (NotImplementedError, RuntimeError) as error:
        raise RuntimeError(f"implementation 'cudnn' is not to be had here: {error}") from error
    return output[..., :dv].reshape(b, h, w, n, dv)
