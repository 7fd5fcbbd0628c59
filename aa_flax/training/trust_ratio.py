"""The layer-wise learning rates of LAMB (You et al., 2020, "Large Batch Optimization for Deep Learning")."""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from aa_flax.models.stacked import lies_stacked
from aa_flax.precision import at_least_float32


def trust_ratio(parameter: Float[Array, "..."], update: Float[Array, "..."]) -> Float[Array, ""]:
    """Return ‖parameter‖ / ‖update‖ over one array, in at least float32; 1 where either norm is zero.

    One array is one layer of Algorithm 2, with φ the identity.
    """
    compute = at_least_float32(parameter.dtype)
    weight, step = (jnp.sqrt(jnp.sum(jnp.square(x.astype(compute)))) for x in (parameter, update))
    known = (weight > 0) & (step > 0)
    return jnp.where(known, weight / jnp.where(known, step, 1), 1)


def scale_by_trust_ratio() -> optax.GradientTransformation:
    """Return the transformation that multiplies each update by the trust ratio of its parameter.

    Where blocks lie stacked in one array, each block has its own ratio. The trees are dicts whose dotted paths say
    which arrays are stacked, see `aa_flax.models.stacked`.
    """

    def scaled(path: tuple[Any, ...], update: Array, parameter: Array) -> Array:
        stacked = lies_stacked(".".join(str(part.key) for part in path))
        ratio = jax.vmap(trust_ratio)(parameter, update) if stacked else trust_ratio(parameter, update)
        ratio = ratio.reshape(ratio.shape + (1,) * (update.ndim - ratio.ndim))
        return (update * ratio).astype(update.dtype)

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        return jax.tree_util.tree_map_with_path(scaled, updates, params), state

    return optax.GradientTransformation(optax.init_empty_state, update)
