"""Attention with its projections as one operation, for the implementations that fuse them."""

import functools
from collections.abc import Callable, Mapping
from types import MappingProxyType

import jax
from jaxtyping import Array, Float

from aa_flax.ops import pallas_tpu

BRANCHES: Mapping[str, Callable[..., Array]] = MappingProxyType(
    {
        "pallas_tpu": pallas_tpu.attention_branch,
        "pallas_tpu_interpret": functools.partial(pallas_tpu.attention_branch, interpret=True),
    }
)


# Its own jit gives the call a name in every jaxpr, where `analysis.summarize` counts what it needs.
@functools.partial(jax.jit, static_argnames=("num_heads", "implementation", "scale"))
def attention_branch(
    x: Float[Array, "b h w c"],
    qkv_kernel: Float[Array, "c depths"],
    qkv_bias: Float[Array, " depths"] | None,
    out_kernel: Float[Array, "value out"],
    out_bias: Float[Array, " out"] | None,
    rel_height: Float[Array, "_rows dk"] | None,
    rel_width: Float[Array, "_columns dk"] | None,
    *,
    num_heads: int,
    implementation: str,
    scale: float | None = None,
) -> Float[Array, "b h w out"]:
    """Multi-head relative attention over a map, projections in and out included (Bello et al., 2019, equations 2 to 4).

    Equal to `out(relative_attention_2d(split(qkv(x)), ...))`, but queries, keys, values and the heads' outputs stay
    on the chip in both passes.

    Args:
        x: [b, h, w, c]; its dtype is that of the products.
        qkv_kernel, qkv_bias: to queries, keys and values in this order, each head-major: [c, 2 * key + value depth].
        out_kernel, out_bias: of the concatenated heads: [value depth, out].
        rel_height, rel_width: [2h-1, dk per head], [2w-1, dk per head]; both None for no position.
        num_heads: n, a divisor of key and value depth.
        implementation: a name in `BRANCHES`.
        scale: factor of the logits; None means (dk per head)**-0.5.

    Raises:
        As the implementation in `aa_flax.ops.relative_attention_2d` does.
    """
    if scale is None:
        scale = ((qkv_kernel.shape[1] - out_kernel.shape[0]) // (2 * num_heads)) ** -0.5
    return BRANCHES[implementation](
        x, qkv_kernel, qkv_bias, out_kernel, out_bias, rel_height, rel_width, num_heads=num_heads, scale=scale
    )
