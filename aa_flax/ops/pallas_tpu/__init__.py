"""Relative attention as a TPU kernel (Pallas): logits and weights stay in VMEM.

    shape.py     sizes, tiles, constants, costs
    tiles.py     mathematics of one tile of queries
    maps.py      layouts of maps in HBM, and how an image is read from them
    turning.py   maps with images on lanes, transposed ("turned") on the chip
    kernels.py   the forward and the backward pass over one image
    branch.py    the call: parameters packed, custom gradient, meshes

The algorithm is the fold of `aa_flax.ops.folded`, on transposed matrices: depths on sublanes, locations of the map on
lanes, so that neither a depth of 20 nor a value depth of 1 is padded to 128. A query's logits with columns and rows are
one product with the whole table, shifted by an amount that depends on the query's own coordinates. The shift is made of
one roll for each binary digit.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float

from aa_flax.ops.pallas_tpu.branch import as_the_kernel_reads, attention_branch

__all__ = ["as_the_kernel_reads", "attention_branch", "pallas_tpu"]


def pallas_tpu(
    query: Float[Array, "b h w n dk"],
    key: Float[Array, "b h w n dk"],
    value: Float[Array, "b h w n dv"],
    rel_height: Float[Array, "_rows dk"] | None,
    rel_width: Float[Array, "_columns dk"] | None,
    scale: float,
    *,
    interpret: bool = False,
) -> Float[Array, "b h w n dv"]:
    """Return relative attention by the branch's kernel, with identity matrices as projections.

    If queries, keys and values come from a projection, call `attention_branch` itself.
    """
    b, h, w, n, dv = value.shape
    x = jnp.concatenate([part.reshape(b, h, w, -1) for part in (query, key, value)], -1)
    qkv, out = (jnp.eye(size, dtype=x.dtype) for size in (x.shape[-1], n * dv))
    heads = attention_branch(
        x, qkv, None, out, None, rel_height, rel_width, num_heads=n, scale=scale, interpret=interpret
    )
    return heads.reshape(b, h, w, n, dv)
