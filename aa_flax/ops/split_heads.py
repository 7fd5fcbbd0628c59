"""Attention whose heads are shared out over the devices of a mesh's axis "model"."""

from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec
from jaxtyping import Array, Float

AXIS = "model"


def head_parts(num_heads: int) -> int:
    """Over how many devices the ambient mesh shares out heads; 1 without a mesh or inside a `shard_map` over that axis.

    Raises:
        ValueError: they do not divide the heads.
    """
    mesh: Any = jax.sharding.get_abstract_mesh()
    parts = 1 if mesh.empty or AXIS in mesh.manual_axes else mesh.shape.get(AXIS, 1)
    if num_heads % parts:
        raise ValueError(f"num_heads={num_heads} does not divide over the {parts} devices of the mesh's axis {AXIS!r}")
    return parts


def project_by_head(
    x: Float[Array, "b h w c"], kernel: Float[Array, "c out"], bias: Float[Array, " out"] | None, num_heads: int
) -> Float[Array, "b h w n depth"]:
    """`x · kernel + bias`, head-major, each device the heads that are its own.

    The kernel is cut, which is small; cutting the product would send activations from chip to chip.
    """
    by_head = _cut(kernel.reshape(kernel.shape[0], num_heads, -1), PartitionSpec(None, AXIS))
    y = jnp.einsum("bhwc,cnd->bhwnd", x, by_head)
    if bias is not None:
        y += bias.reshape(1, 1, 1, num_heads, -1)
    return _split(y, PartitionSpec("data", None, None, AXIS))


def merge_heads(
    heads: Float[Array, "b h w n depth"], kernel: Float[Array, "nd out"], bias: Float[Array, " out"] | None
) -> Float[Array, "b h w out"]:
    """The output projection: each device multiplies its own heads, and one sum over the devices makes the result."""
    n, depth = heads.shape[-2:]
    by_head = _cut(kernel.reshape(n, depth, -1), PartitionSpec(AXIS))
    y = _split(jnp.einsum("bhwnd,ndo->bhwo", heads, by_head), PartitionSpec("data"))
    return y if bias is None else y + bias[None, None, None]


def _cut(kernel: Array, spec: PartitionSpec) -> Array:
    """Whole first, so that each device cuts its own part out, and its gradient is gathered here."""
    return _split(_split(kernel, PartitionSpec()), spec)


def _split(x: Array, spec: PartitionSpec) -> Array:
    return jax.lax.with_sharding_constraint(x, spec)
