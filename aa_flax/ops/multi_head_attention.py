"""Multi-head attention over a map, including its projections, by the implementation that suits the call."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from aa_flax.ops.attention_branch import BRANCHES, attention_branch
from aa_flax.ops.channels import add_to_last_channels
from aa_flax.ops.choice import choose, without_kernel
from aa_flax.ops.normalized import normalized
from aa_flax.ops.packed_attention import PACKED, packed_attention
from aa_flax.ops.pallas_tpu import as_the_kernel_reads
from aa_flax.ops.platform import target_platform
from aa_flax.ops.relative_attention import relative_attention_2d
from aa_flax.ops.resampling import resize_bilinear
from aa_flax.ops.split_heads import head_parts, merge_heads, project_by_head


class Projection(NamedTuple):
    """A pointwise convolution: its arrays, for implementations that fuse it, and the function that applies them."""

    kernel: Float[Array, "1 1 c d"]
    bias: Float[Array, " d"] | None
    apply: Callable[[Array], Array]  # [b, h, w, c] to [b, h, w, d]


def multi_head_attention(
    x: Float[Array, "b h w c"],
    qkv: Projection,
    out: Projection,
    rel_height: Float[Array, "_rows dk"] | None,
    rel_width: Float[Array, "_columns dk"] | None,
    *,
    num_heads: int,
    implementation: str = "auto",
    norm: tuple[Float[Array, " c"], Float[Array, " c"]] | None = None,
    upsampled: tuple[int, int] | None = None,
    added_to: Float[Array, "b ho wo all"] | None = None,
) -> Float[Array, "b ho wo _"]:
    """Return multi-head relative attention over a map (Bello et al., 2019, equations 2 to 4).

        Q, K, V = qkv(x), split into heads
        MHA(x)  = out(concat over heads of softmax((Q Kᵀ + S_H + S_W) / sqrt(dk per head)) V)

    All implementations compute this; they differ in what they keep in memory. Under a mesh with an axis "model" of more
    than one device, the heads are split over its devices, which no kernel supports.

    Args:
        x: [b, h, w, c]; its dtype is that of the products.
        qkv: projection to queries, keys and values in this order, each head-major: [c, 2 * key depth + value depth].
        out: projection of the concatenated heads: [value depth, value depth].
        rel_height, rel_width: [2h-1, dk per head], [2w-1, dk per head]; both None for no position.
        num_heads: n, a divisor of key and value depth.
        implementation: see `relative_attention_2d`.
        norm: a factor and a summand for each channel; the map is then relu(x * factor + summand).
        upsampled: size (ho, wo) to which the result is interpolated, see `resize_bilinear`; None keeps the map's size.
        added_to: a map to whose last channels the result is added, returned whole; None returns the result alone.

    Raises:
        ValueError, TypeError, RuntimeError: as `relative_attention_2d`; a mesh that does not divide the heads.
    """
    b, h, w, c = x.shape
    if head_parts(num_heads) > 1:
        run = functools.partial(_by_head, num_heads=num_heads, implementation=implementation)
    else:
        if implementation == "auto":
            key_depth, value_depth = (depth // num_heads for depth in _depths(qkv, out))
            implementation = choose(x.dtype, h, w, num_heads, key_depth, value_depth, rel_height is not None, c, b)
        if implementation in BRANCHES:
            return attention_branch(
                x,
                qkv.kernel[0, 0],
                qkv.bias,
                out.kernel[0, 0],
                out.bias,
                rel_height,
                rel_width,
                num_heads=num_heads,
                implementation=implementation,
                norm=norm,
                upsampled=upsampled,
                added_to=added_to,
            )
        run = functools.partial(_in_steps, num_heads=num_heads, implementation=implementation)

    def attend(x: Array) -> Array:
        return run(x if norm is None else normalized(x, *norm), qkv, out, rel_height, rel_width)

    # With a norm, the backward pass normalises again, as the kernel does, so that no second map is kept beside x.
    attended = attend(x) if norm is None else jax.checkpoint(attend)(x)
    attended = resize_bilinear(attended, *(upsampled or (h, w)))
    return attended if added_to is None else add_to_last_channels(added_to, attended)


def attention_of_projected(
    qkv: Float[Array, "b h w depths"],
    rel_height: Float[Array, "_rows dk"] | None,
    rel_width: Float[Array, "_columns dk"] | None,
    *,
    num_heads: int,
    value_depth: int,
    implementation: str = "auto",
) -> Float[Array, "b h w {value_depth}"]:
    """Return the heads' outputs side by side, from queries, keys and values side by side as a projection writes them.

    Arguments and errors are as in `packed_attention`, but any implementation of `relative_attention_2d` serves.
    """
    if implementation in PACKED:
        sizes = dict(num_heads=num_heads, value_depth=value_depth)
        return packed_attention(qkv, rel_height, rel_width, **sizes, implementation=implementation)
    query, key, value = heads_of(qkv, num_heads, value_depth)
    heads = relative_attention_2d(query, key, value, rel_height, rel_width, implementation=implementation)
    return heads.reshape(*qkv.shape[:3], value_depth)


def heads_of(
    qkv: Float[Array, "b h w depths"], num_heads: int, value_depth: int
) -> tuple[Float[Array, "b h w n dk"], Float[Array, "b h w n dk"], Float[Array, "b h w n dv"]]:
    """Return queries, keys and values by head, from one array of all, each head-major; `value_depth` of all heads."""
    key_depth = (qkv.shape[-1] - value_depth) // 2
    parts = jnp.split(qkv, [key_depth, 2 * key_depth], axis=-1)
    query, key, value = (part.reshape(*qkv.shape[:3], num_heads, -1) for part in parts)
    return query, key, value


def as_attention_reads(x: Float[Array, "b h w c"], implementation: str) -> Float[Array, "b h w c"]:
    """Return `x`, laid out in memory as `implementation` reads it best; for maps that a convolution reads too."""
    return as_the_kernel_reads(x) if implementation in ("auto", "pallas_tpu") else x


def _depths(qkv: Projection, out: Projection) -> tuple[int, int]:
    """Return the key depth and the value depth of all heads together."""
    value_depth = out.kernel.shape[2]
    return (qkv.kernel.shape[3] - value_depth) // 2, value_depth


def _in_steps(
    x: Array, qkv: Projection, out: Projection, *tables: Array | None, num_heads: int, implementation: str
) -> Array:
    _, value_depth = _depths(qkv, out)
    options: dict[str, Any] = dict(num_heads=num_heads, value_depth=value_depth, implementation=implementation)
    return out.apply(attention_of_projected(qkv.apply(x), *tables, **options))


def _by_head(
    x: Array, qkv: Projection, out: Projection, *tables: Array | None, num_heads: int, implementation: str
) -> Array:
    """Compute attention with heads split over devices; "auto" then folds, since kernels take all heads of an image."""
    if implementation == "auto":
        implementation = without_kernel(target_platform(), x.shape[1] * x.shape[2])
    key_depth, _ = _depths(qkv, out)
    cuts = [key_depth, 2 * key_depth]
    kernels = jnp.split(qkv.kernel[0, 0].astype(x.dtype), cuts, -1)
    biases = [None] * 3 if qkv.bias is None else jnp.split(qkv.bias.astype(x.dtype), cuts)
    query, key, value = (
        project_by_head(x, kernel, bias, num_heads) for kernel, bias in zip(kernels, biases, strict=True)
    )
    heads = relative_attention_2d(query, key, value, *tables, implementation=implementation)
    bias = None if out.bias is None else out.bias.astype(x.dtype)
    return merge_heads(heads, out.kernel[0, 0].astype(x.dtype), bias)
