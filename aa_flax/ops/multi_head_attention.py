"""Multi-head attention over any space, including its projections, by the implementation that suits the call."""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from aa_flax.ops.attention_branch import BRANCHES, attention_branch
from aa_flax.ops.channels import add_to_last_channels
from aa_flax.ops.choice import choose, without_kernel
from aa_flax.ops.normalized import normalized
from aa_flax.ops.packed_attention import PACKED, packed_attention
from aa_flax.ops.pallas_tpu import as_the_kernel_reads
from aa_flax.ops.platform import target_platform
from aa_flax.ops.relative_attention import relative_attention
from aa_flax.ops.resampling import resize_linear
from aa_flax.ops.split_heads import head_parts, merge_heads, project_by_head
from aa_flax.ops.tables import both_tables


class Projection(NamedTuple):
    """A pointwise convolution: its arrays, for implementations that fuse it, and the function that applies them."""

    kernel: Float[Array, "*ones c d"]
    bias: Float[Array, " d"] | None
    apply: Callable[[Array], Array]  # [b, *space, c] to [b, *space, d]


def multi_head_attention(
    x: Float[Array, "b *space c"],
    qkv: Projection,
    out: Projection,
    *tables: Float[Array, "_rows dk"] | None,
    num_heads: int,
    implementation: str = "auto",
    norm: tuple[Float[Array, " c"], Float[Array, " c"]] | None = None,
    upsampled: tuple[int, ...] | None = None,
    added_to: Float[Array, "b *out_space all"] | None = None,
    valid: Bool[Array, "b *space"] | None = None,
) -> Float[Array, "b *out_space _"]:
    """Return multi-head relative attention over a signal, a map or a volume (Bello et al., 2019, equations 2 to 4).

        Q, K, V = qkv(x), split into heads
        MHA(x)  = out(concat over heads of softmax((Q Kᵀ + S_H + S_W) / sqrt(dk per head)) V)

    All implementations compute this; they differ in what they keep in memory. Under a mesh with an axis "model" of more
    than one device, the heads are split over its devices, which no kernel supports.

    Args:
        x: [b, *space, c]; its dtype is that of the products.
        qkv: projection to queries, keys and values in this order, each head-major: [c, 2 * key depth + value depth].
        out: projection of the concatenated heads: [value depth, value depth].
        tables: [2 * size - 1, dk per head] for each axis of the space in its order; None for no position.
        num_heads: n, a divisor of key and value depth.
        implementation: see `relative_attention`.
        norm: a factor and a summand for each channel; the map is then relu(x * factor + summand).
        upsampled: size of the space to which the result is interpolated, see `resize_linear`; None keeps that of `x`.
        added_to: a map to whose last channels the result is added, returned whole; None returns the result alone.
        valid: the locations whose keys count, see `relative_attention`.

    Raises:
        ValueError, TypeError, RuntimeError: as `relative_attention`; a mesh that does not divide the heads.
    """
    if x.ndim == 3:
        options: dict[str, Any] = dict(num_heads=num_heads, implementation=implementation, norm=norm)
        size = upsampled and (1, *upsampled)
        options |= dict(upsampled=size, added_to=_row(added_to), valid=_row(valid))
        return multi_head_attention(x[:, None], _of_rows(qkv), _of_rows(out), None, *tables, **options)[:, 0]
    b, *space, c = x.shape
    if head_parts(num_heads) > 1:
        run = functools.partial(_by_head, num_heads=num_heads, implementation=implementation, valid=valid)
    else:
        key_depth, value_depth = (depth // num_heads for depth in _depths(qkv, out))
        if implementation == "auto":
            positions = any(table is not None for table in tables)
            sizes = math.prod(space[:-1]), space[-1], num_heads, key_depth + (valid is not None), value_depth
            in_features = c if valid is None else None  # of what a kernel reads, which no mask is a part of
            implementation = choose(x.dtype, *sizes, positions, in_features, b, dimensions=len(space))
        if implementation in BRANCHES and len(space) == 2 and valid is None:
            return attention_branch(
                x,
                qkv.kernel[0, 0],
                qkv.bias,
                out.kernel[0, 0],
                out.bias,
                *both_tables(tables, space, key_depth, x.dtype),
                num_heads=num_heads,
                implementation=implementation,
                norm=norm,
                upsampled=upsampled,
                added_to=added_to,
            )
        run = functools.partial(_in_steps, num_heads=num_heads, implementation=implementation, valid=valid)

    def attend(x: Array) -> Array:
        return run(x if norm is None else normalized(x, *norm), qkv, out, *tables)

    # With a norm, the backward pass normalises again, as the kernel does, so that no second map is kept beside x.
    attended = attend(x) if norm is None else jax.checkpoint(attend)(x)
    attended = resize_linear(attended, tuple(upsampled or space))
    return attended if added_to is None else add_to_last_channels(added_to, attended)


def _row(x: Array | None) -> Array | None:
    """Return a signal as a map of height 1."""
    return None if x is None else x[:, None]


def _of_rows(projection: Projection) -> Projection:
    """Return the projection of a signal as that of a map of height 1."""
    apply = lambda x: projection.apply(x[:, 0])[:, None]  # noqa: E731
    return Projection(projection.kernel[None], projection.bias, apply)


def attention_of_projected(
    qkv: Float[Array, "b *space depths"],
    *tables: Float[Array, "_rows dk"] | None,
    num_heads: int,
    value_depth: int,
    implementation: str = "auto",
    valid: Bool[Array, "b *space"] | None = None,
) -> Float[Array, "b *space {value_depth}"]:
    """Return the heads' outputs side by side, from queries, keys and values side by side as a projection writes them.

    Arguments and errors are as in `packed_attention`, but any implementation of `relative_attention` serves, with a
    table for each axis of the space in its order, and `valid` as it takes it.
    """
    if implementation in PACKED and qkv.ndim == 4 and valid is None:
        sizes = dict(num_heads=num_heads, value_depth=value_depth)
        tables = both_tables(tables, qkv.shape[1:3], (qkv.shape[-1] - value_depth) // 2 // num_heads, qkv.dtype)
        return packed_attention(qkv, *tables, **sizes, implementation=implementation)
    query, key, value = heads_of(qkv, num_heads, value_depth)
    heads = relative_attention(query, key, value, tables, implementation=implementation, valid=valid)
    return heads.reshape(*qkv.shape[:-1], value_depth)


def heads_of(
    qkv: Float[Array, "b *space depths"], num_heads: int, value_depth: int
) -> tuple[Float[Array, "b *space n dk"], Float[Array, "b *space n dk"], Float[Array, "b *space n dv"]]:
    """Return queries, keys and values by head, from one array of all, each head-major; `value_depth` of all heads."""
    key_depth = (qkv.shape[-1] - value_depth) // 2
    parts = jnp.split(qkv, [key_depth, 2 * key_depth], axis=-1)
    query, key, value = (part.reshape(*qkv.shape[:-1], num_heads, -1) for part in parts)
    return query, key, value


def as_attention_reads(x: Float[Array, "b *space c"], implementation: str) -> Float[Array, "b *space c"]:
    """Return `x`, laid out in memory as `implementation` reads it best; for maps that a convolution reads too."""
    return as_the_kernel_reads(x) if x.ndim == 4 and implementation in ("auto", "pallas_tpu") else x


def _depths(qkv: Projection, out: Projection) -> tuple[int, int]:
    """Return the key depth and the value depth of all heads together."""
    value_depth = out.kernel.shape[-2]
    return (qkv.kernel.shape[-1] - value_depth) // 2, value_depth


def _in_steps(
    x: Array,
    qkv: Projection,
    out: Projection,
    *tables: Array | None,
    num_heads: int,
    implementation: str,
    valid: Array | None,
) -> Array:
    _, value_depth = _depths(qkv, out)
    options: dict[str, Any] = dict(num_heads=num_heads, value_depth=value_depth, implementation=implementation)
    return out.apply(attention_of_projected(qkv.apply(x), *tables, **options, valid=valid))


def _by_head(
    x: Array,
    qkv: Projection,
    out: Projection,
    *tables: Array | None,
    num_heads: int,
    implementation: str,
    valid: Array | None,
) -> Array:
    """Compute attention with heads split over devices; "auto" then folds, since kernels take all heads of an image."""
    b, *space, _ = x.shape
    if implementation == "auto":
        implementation = without_kernel(target_platform(), math.prod(space))
    key_depth, _ = _depths(qkv, out)
    cuts = [key_depth, 2 * key_depth]
    kernels = jnp.split(qkv.kernel.reshape(qkv.kernel.shape[-2:]).astype(x.dtype), cuts, -1)
    biases = [None] * 3 if qkv.bias is None else jnp.split(qkv.bias.astype(x.dtype), cuts)
    rows = x.reshape(b, -1, *x.shape[-2:])  # of a volume, the planes below each other
    projected = (project_by_head(rows, kernel, bias, num_heads) for kernel, bias in zip(kernels, biases, strict=True))
    query, key, value = (each.reshape(b, *space, *each.shape[-2:]) for each in projected)
    heads = relative_attention(query, key, value, tables, implementation=implementation, valid=valid)
    bias = None if out.bias is None else out.bias.astype(x.dtype)
    kernel = out.kernel.reshape(out.kernel.shape[-2:]).astype(x.dtype)
    merged = merge_heads(heads.reshape(b, -1, *heads.shape[-3:]), kernel, bias)
    return merged.reshape(b, *space, -1)
