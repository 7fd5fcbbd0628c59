"""Keys that no query may attend to, hidden by one more channel of queries and keys.

The channel is large in each query, zero in each key that counts, and large with the opposite sign in each that does
not. So a hidden key's logit is smaller than any other by so much that its weight is exactly zero, whatever
implementation computes it, and none of them needs to know.
"""

import math
from collections.abc import Sequence

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float


def hiding_number(dtype: jnp.dtype) -> float:
    """Return a number whose square exceeds any logit that is likely, and is finite in float32.

    The square of 2**62 exceeds all but the sixteenth part of what float32 can hold. Float16 cannot hold such numbers:
    there the square of its largest exceeds all that queries and keys of one such channel can have.
    """
    return 65504.0 if dtype == jnp.float16 else 2.0**62


def only_valid(x: Float[Array, "b *space n d"], valid: Bool[Array, "b *space"]) -> Float[Array, "b *space n d"]:
    """Return keys or values with zeros where they do not count, whatever stood there, NaN included."""
    return jnp.where(valid[..., None, None], x, jnp.zeros((), x.dtype))


def with_hidden_keys(
    query: Float[Array, "b *space n dk"],
    key: Float[Array, "b *space n dk"],
    tables: Sequence[Float[Array, "_rows dk"] | None],
    valid: Bool[Array, "b *space"],
    scale: float,
) -> tuple[Array, Array, tuple[Array | None, ...], float]:
    """Return queries, keys, tables and the scale, with one more channel that hides the keys that are not `valid`.

    Where no key of an image is valid, none is hidden: kernels begin with a largest logit that is larger than a hidden
    key's, and would divide by a sum of nothing. With `only_valid` values the output is 0 there all the same.
    """
    if scale == 0:  # of queries that are 0, all logits are 0 too, but for those that the channel makes
        query, scale = jnp.zeros_like(query), 1.0
    large = hiding_number(query.dtype)
    zeros = jnp.zeros_like(key[..., :1])  # sharded as the keys are, for meshes that check it
    seen = valid | ~valid.any(tuple(range(1, valid.ndim)), keepdims=True)
    hiding = jnp.where(seen[..., None, None], zeros, zeros - math.copysign(large, scale))
    query = jnp.concatenate([query, jnp.zeros_like(query[..., :1]) + large], -1)
    tables = tuple(None if table is None else jnp.pad(table, ((0, 0), (0, 1))) for table in tables)
    return query, jnp.concatenate([key, hiding], -1), tables, scale
