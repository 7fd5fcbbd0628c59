"""The fold: relative attention as plain attention over a few more channels.

`q_i·rel_width[jx-ix+w-1]` depends on the key only through its column jx, so the w numbers `A_i[jx]` hold the whole
width term and the h numbers `B_i[jy]` the whole height term:

    logit(i, j) = scale * [q_i, A_i, B_i] · [k_j, onehot(jx), onehot(jy)]

It is exact and differentiable, builds no hw x hw bias, and lets any plain attention kernel serve.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from aa_flax.ops.scaling import with_positive_scale
from aa_flax.ops.tables import by_pair
from aa_flax.precision import at_least_float32


def fold(
    query: Float[Array, "b *space n dk"], key: Float[Array, "b *space n dk"], *tables: Float[Array, "_rows dk"] | None
) -> tuple[Float[Array, "b *space n folded"], Float[Array, "b *space n folded"]]:
    """Return queries and keys whose dot product is the relative logit before scaling.

    They are as much wider as the axes are long of which `tables`, one for each axis in its order, has a table.

    In float16 a position term may exceed the largest number, so a 32nd of it is kept, and the keys have 32 for 1.
    """
    space = query.shape[1:-2]
    at = "zyx"[-len(space) :]
    one = 32 if query.dtype == jnp.float16 else 1
    part = query if one == 1 else query / one
    nothing = jnp.zeros_like(key[..., :1])  # sharded as the keys are, for meshes that check it
    terms, places = [query], [key]
    for axis in reversed(range(len(space))):
        table, length = tables[axis], space[axis]
        if table is not None:
            terms.append(jnp.einsum(f"b{at}nd,{at[axis]}ud->b{at}nu", part, by_pair(table)))
            shape = [length if other == axis else 1 for other in range(len(space))]
            places.append(nothing + one * jnp.eye(length, dtype=key.dtype).reshape(1, *shape, 1, length))
    return jnp.concatenate(terms, -1), jnp.concatenate(places, -1)


def folded(
    query: Float[Array, "b h w n dk"],
    key: Float[Array, "b h w n dk"],
    value: Float[Array, "b h w n dv"],
    rel_height: Float[Array, "_rows dk"] | None,
    rel_width: Float[Array, "_columns dk"] | None,
    scale: float,
) -> Float[Array, "b h w n dv"]:
    """Return relative attention by the fold, in plain XLA.

    The softmax's denominator is one more value channel (a column of ones), so the hw x hw weights are never divided:
    they are written once by the exponential and read once by the product with the values. Keys and values lie
    depth-major, so that the products yield their gradients without a transposition (a fifth of the time of forward and
    backward pass together on a CPU).
    """
    b, h, w, n, dv = value.shape
    dtype = at_least_float32(query.dtype)
    query, scale = with_positive_scale(query, scale)
    if rel_height is not None and rel_width is not None:
        query, key = fold(query, key, rel_height, rel_width)
    value = jnp.concatenate([value, jnp.ones_like(value[..., :1])], -1)
    query, key, value = (x.reshape(b, h * w, n, -1) for x in (query, key, value))
    query, key, value = query.transpose(0, 2, 1, 3), key.transpose(0, 2, 3, 1), value.transpose(0, 2, 3, 1)
    products = jnp.einsum("bnid,bndj->bnij", query, key, preferred_element_type=dtype)
    maximum = jax.lax.stop_gradient(products.max(-1, keepdims=True))  # any constant per query cancels
    weights = jnp.exp(scale * (products - maximum)).astype(value.dtype)
    sums = jnp.einsum("bnij,bndj->bnid", weights, value, preferred_element_type=dtype)
    output = (sums[..., :dv] / sums[..., dv:]).astype(value.dtype)
    return output.reshape(b, n, h, w, dv).transpose(0, 2, 3, 1, 4)
