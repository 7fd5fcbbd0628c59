"""Attention with its projections as one operation, for the implementations that fuse them."""

import functools
from collections.abc import Callable, Mapping
from types import MappingProxyType

import jax
from jaxtyping import Array, Float

from aa_flax.ops import pallas_tpu
from aa_flax.ops.tables import check_tables

BRANCHES: Mapping[str, Callable[..., Array]] = MappingProxyType(
    {
        "pallas_tpu": pallas_tpu.attention_branch,
        "pallas_tpu_interpret": functools.partial(pallas_tpu.attention_branch, interpret=True),
    }
)


# Its own jit gives the call a name in every jaxpr, where `analysis.summarize` counts what it needs.
@functools.partial(jax.jit, static_argnames=("num_heads", "implementation", "scale", "upsampled"))
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
    norm: tuple[Float[Array, " c"], Float[Array, " c"]] | None = None,
    upsampled: tuple[int, int] | None = None,
    added_to: Float[Array, "b ho wo all"] | None = None,
) -> Float[Array, "b ho wo _"]:
    """Return multi-head relative attention over a map, with its projections (Bello et al., 2019, equations 2 to 4).

    It equals `out(relative_attention_2d(split(qkv(x)), ...))`, but queries, keys, values and the heads' outputs stay
    on the chip in both passes.

    Args:
        x: [b, h, w, c]; its dtype is that of the products.
        qkv_kernel, qkv_bias: of the projection to queries, keys and values in this order, each head-major; the kernel
            is [c, 2 * key depth + value depth].
        out_kernel, out_bias: of the projection of the concatenated heads; the kernel is [value depth, out].
        rel_height, rel_width: [2h-1, dk per head], [2w-1, dk per head]; both None for no position.
        num_heads: n, a divisor of key and value depth.
        implementation: a name in `BRANCHES`.
        scale: factor of the logits; None means (dk per head)**-0.5.
        norm: a factor and a summand for each channel; the map is then relu(x * factor + summand), made on the chip.
        upsampled: size (ho, wo) to which the result is interpolated, see `resize_bilinear`; None keeps the map's size.
        added_to: a map to whose last channels the result is added, returned whole; None returns the result alone.

    Raises:
        ValueError: shapes that do not fit, an unknown implementation, or a map or batch that it cannot serve.
        TypeError: a dtype that the implementation does not know.
        RuntimeError: traced for a device on which the implementation does not run.
    """
    if implementation not in BRANCHES:
        raise ValueError(f"implementation must be one of {', '.join(map(repr, BRANCHES))}, got {implementation!r}")
    _check(x, qkv_kernel, out_kernel, rel_height, rel_width, num_heads)
    size = (x.shape[0], *(upsampled or x.shape[1:3]))
    if added_to is not None and (added_to.shape[:-1] != size or added_to.shape[-1] < out_kernel.shape[1]):
        raise ValueError(
            f"added_to must have shape {size} and at least {out_kernel.shape[1]} channels, got {added_to.shape}"
        )
    if scale is None:
        scale = ((qkv_kernel.shape[1] - out_kernel.shape[0]) // (2 * num_heads)) ** -0.5
    return BRANCHES[implementation](
        x,
        qkv_kernel,
        qkv_bias,
        out_kernel,
        out_bias,
        rel_height,
        rel_width,
        num_heads=num_heads,
        scale=scale,
        norm=norm,
        upsampled=upsampled,
        added_to=added_to,
    )


def _check(
    x: Array, qkv_kernel: Array, out_kernel: Array, rel_height: Array | None, rel_width: Array | None, num_heads: int
) -> None:
    if x.ndim != 4 or 0 in x.shape:
        raise ValueError(f"x must have shape [b, h, w, c], none of them 0, got {x.shape}")
    _, h, w, c = x.shape
    value = out_kernel.shape[0]
    if qkv_kernel.shape[0] != c:
        raise ValueError(f"qkv_kernel must have {c} rows, the channels of x, got shape {qkv_kernel.shape}")
    keys = qkv_kernel.shape[1] - value
    if num_heads < 1 or keys < 2 * num_heads or keys % (2 * num_heads) or value % num_heads:
        raise ValueError(
            f"num_heads={num_heads} must divide the value depth of {value} and the key depth, half of the other "
            f"{keys} columns of qkv_kernel"
        )
    check_tables(rel_height, rel_width, (h, w), keys // (2 * num_heads))
