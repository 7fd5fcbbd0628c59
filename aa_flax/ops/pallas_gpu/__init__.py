"""Relative attention as kernels for GPUs (Pallas, Triton): logits and weights stay on the chip.

    shape.py     sizes, tiles, warps, what is refused
    tiles.py     mathematics of one tile of queries and one of keys
    kernels.py   the forward and the backward pass
    call.py      the call: custom gradient, meshes

They use Triton because the alternative, Mosaic GPU, supports Hopper and Blackwell only, and needs rows of memory that
start at multiples of 16 bytes, as those of a head of depth 20 do not. JAX has deprecated its Triton backend since
0.11.0 and warns when a kernel is lowered. On a JAX without it these implementations raise an error, and "auto" takes
another.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float

from aa_flax.ops.mesh import varying_alike
from aa_flax.ops.pallas_gpu.shape import Shape, caller_precision
from aa_flax.ops.platform import target_capability, target_platform


def packed(
    qkv: Float[Array, "b h w depths"],
    rel_height: Float[Array, "_rows dk"] | None,
    rel_width: Float[Array, "_columns dk"] | None,
    *,
    num_heads: int,
    value_depth: int,
    scale: float,
    interpret: bool = False,
) -> Float[Array, "b h w _value"]:
    """Return relative attention over a map of queries, keys and values that lie side by side, each head-major.

    A pass reads the map and writes the heads' outputs; the gradient comes in the same layout. Under an ambient mesh
    with an axis "data" each device serves its part of the batch.

    Args:
        qkv: n*dk, n*dk and n*dv channels.
        rel_height, rel_width: [2h-1, dk], [2w-1, dk], shared by the heads; both None for no position.
        num_heads: n.
        value_depth: dv, per head.
        scale: factor of the logits.
        interpret: run step by step on any device, as the tests do; slow.

    Raises:
        TypeError: dtypes other than bfloat16, float16 and float32.
        ValueError: depths that the kernels do not take, or a batch that the mesh does not divide.
        RuntimeError: traced for another device than an NVIDIA GPU of Ampere or later, or on a JAX without Triton.
    """
    if not interpret and (platform := target_platform()) != "gpu":
        raise RuntimeError(
            f"implementation 'pallas_gpu' runs on NVIDIA GPUs, and this program is traced for a {platform}; use "
            "'folded', or 'pallas_gpu_interpret' to try it slowly"
        )
    b, h, w, depths = qkv.shape
    shape = Shape(
        height=h,
        width=w,
        num_heads=num_heads,
        key_depth=(depths // num_heads - value_depth) // 2,
        value_depth=value_depth,
        scale=scale,
        positions=rel_height is not None,
        dtype=jnp.dtype(qkv.dtype),
        precision=caller_precision(interpret),
        interpret=interpret,
    )
    shape.check(None if interpret else target_capability())
    from aa_flax.ops.pallas_gpu.call import attention  # here, because a JAX without Triton cannot import it

    tables = () if rel_height is None or rel_width is None else (rel_height, rel_width)
    qkv, tables = varying_alike((qkv, tables))
    return attention(shape, qkv.reshape(b, h * w, depths), tables).reshape(b, h, w, -1)


def pallas_gpu(
    query: Float[Array, "b h w n dk"],
    key: Float[Array, "b h w n dk"],
    value: Float[Array, "b h w n dv"],
    rel_height: Float[Array, "_rows dk"] | None,
    rel_width: Float[Array, "_columns dk"] | None,
    scale: float,
    *,
    interpret: bool = False,
) -> Float[Array, "b h w n dv"]:
    """Return relative attention by the kernels, for which queries, keys and values are copied side by side.

    If a projection writes them side by side, call `packed_attention` instead.
    """
    b, h, w, n, dv = value.shape
    qkv = jnp.concatenate([part.reshape(b, h, w, -1) for part in (query, key, value)], -1)
    heads = packed(qkv, rel_height, rel_width, num_heads=n, value_depth=dv, scale=scale, interpret=interpret)
    return heads.reshape(b, h, w, n, dv)
