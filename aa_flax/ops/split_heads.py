"""Attention whose heads are split over the devices of a mesh's axis "model"."""

from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec
from jaxtyping import Array, Float

AXIS = "model"


def head_parts(num_heads: int) -> int:
    """Return over how many devices the ambient mesh splits heads; 1 without a mesh or in a `shard_map` over that axis.

    Raises:
        ValueError: the devices do not divide the heads.
    """
    mesh: Any = jax.sharding.get_abstract_mesh()
    parts = 1 if mesh.empty or AXIS in mesh.manual_axes else mesh.shape.get(AXIS, 1)
    if num_heads % parts:
        raise ValueError(f"num_heads={num_heads} does not divide over the {parts} devices of the mesh's axis {AXIS!r}")
    return parts


def project_by_head(
    x: Float[Array, "b h w c"], kernel: Float[Array, "c out"], bias: Float[Array, " out"] | None, num_heads: int
) -> Float[Array, "b h w n depth"]:
    """Return `x · kernel + bias`, head-major; each device computes its own heads.

    The kernel is split, because it is small; splitting the product would send activations from chip to chip.
    """
    by_head = _cut(kernel.reshape(kernel.shape[0], num_heads, -1), PartitionSpec(None, AXIS))
    y = jnp.einsum("bhwc,cnd->bhwnd", x, by_head)
    if bias is not None:
        y += bias.reshape(1, 1, 1, num_heads, -1)
    return _split(y, PartitionSpec("data", None, None, AXIS))


def merge_heads(
    heads: Float[Array, "b h w n depth"], kernel: Float[Array, "nd out"], bias: Float[Array, " out"] | None
) -> Float[Array, "b h w out"]:
    """Return the output projection: each device multiplies its own heads, and the results are summed over devices."""
    n, depth = heads.shape[-2:]
    by_head = _cut(kernel.reshape(n, depth, -1), PartitionSpec(AXIS))
    y = _split(jnp.einsum("bhwnd,ndo->bhwo", heads, by_head), PartitionSpec("data"))
    return y if bias is None else y + bias[None, None, None]


def _cut(kernel: Array, spec: PartitionSpec) -> Array:
    """Replicate a kernel, then split it, so that each device cuts out its own part and gradients are gathered here."""
    return _split(_split(kernel, PartitionSpec()), spec)


def _split(x: Array, spec: PartitionSpec) -> Array:
    return jax.lax.with_sharding_constraint(x, spec)
