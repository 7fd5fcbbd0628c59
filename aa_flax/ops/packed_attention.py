"""Attention on one array of queries, keys and values, as a projection writes it, for implementations that read it."""

import functools
from collections.abc import Callable, Mapping
from types import MappingProxyType

import jax
from jaxtyping import Array, Float

from aa_flax.ops import pallas_gpu
from aa_flax.ops.tables import check_tables

PACKED: Mapping[str, Callable[..., Array]] = MappingProxyType(
    {
        "pallas_gpu": pallas_gpu.packed,
        "pallas_gpu_interpret": functools.partial(pallas_gpu.packed, interpret=True),
    }
)


# Its own jit gives the call a name in every jaxpr, where `analysis.summarize` counts what it needs.
@functools.partial(jax.jit, static_argnames=("num_heads", "value_depth", "implementation", "scale"))
def packed_attention(
    qkv: Float[Array, "b h w depths"],
    rel_height: Float[Array, "_rows dk"] | None,
    rel_width: Float[Array, "_columns dk"] | None,
    *,
    num_heads: int,
    value_depth: int,
    implementation: str,
    scale: float | None = None,
) -> Float[Array, "b h w {value_depth}"]:
    """Return multi-head relative attention on one array of queries, keys, values (Bello et al., 2019, equations 2-4).

    It equals `relative_attention_2d` on the array's three parts, but copies neither the parts nor their gradients.

    Args:
        qkv: [b, h, w, 2*key_depth + value_depth]: queries, keys and values in this order, each head-major.
        rel_height, rel_width: [2h-1, dk per head], [2w-1, dk per head]; both None for no position.
        num_heads: n, a divisor of key and value depth.
        value_depth: of all heads together.
        implementation: a name in `PACKED`.
        scale: factor of the logits; None means (dk per head)**-0.5.

    Raises:
        ValueError: shapes that do not fit, an unknown implementation, or depths or a batch that it cannot serve.
        TypeError: a dtype that the implementation does not know.
        RuntimeError: traced for a device on which the implementation does not run.
    """
    if implementation not in PACKED:
        raise ValueError(f"implementation must be one of {', '.join(map(repr, PACKED))}, got {implementation!r}")
    if qkv.ndim != 4 or 0 in qkv.shape:
        raise ValueError(f"qkv must have shape [b, h, w, depths], none of them 0, got {qkv.shape}")
    _, h, w, depths = qkv.shape
    keys = depths - value_depth
    if num_heads < 1 or value_depth < 1 or value_depth % num_heads or keys < 2 or keys % (2 * num_heads):
        raise ValueError(
            f"num_heads={num_heads} must divide value_depth={value_depth} and the key depth, half of the other {keys} "
            "channels of qkv"
        )
    dk = keys // (2 * num_heads)
    check_tables(rel_height, rel_width, (h, w), dk)
    if rel_height is not None and rel_width is not None:
        rel_height, rel_width = rel_height.astype(qkv.dtype), rel_width.astype(qkv.dtype)
    return PACKED[implementation](
        qkv,
        rel_height,
        rel_width,
        num_heads=num_heads,
        value_depth=value_depth // num_heads,
        scale=dk**-0.5 if scale is None else scale,
    )
