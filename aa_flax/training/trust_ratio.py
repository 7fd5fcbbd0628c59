"""The layer-wise learning rates of LAMB (You et al., 2020, "Large Batch Optimization for Deep Learning")."""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float


def trust_ratio(parameter: Float[Array, "..."], update: Float[Array, "..."]) -> Float[Array, ""]:
    """‖parameter‖ / ‖update‖ over one array, in at least float32; 1 where either is zero (Algorithm 2, φ the identity).

    One array is one layer. Of blocks that lie stacked in one array each is a layer: `jax.vmap` this over their axis.
    """
    compute = jnp.promote_types(parameter.dtype, jnp.float32)
    weight, step = (jnp.sqrt(jnp.sum(jnp.square(x.astype(compute)))) for x in (parameter, update))
    known = (weight > 0) & (step > 0)
    return jnp.where(known, weight / jnp.where(known, step, 1), 1)


def scale_by_trust_ratio() -> optax.GradientTransformation:
    """Updates times the trust ratio of their parameter."""

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        return jax.tree.map(lambda u, p: (u * trust_ratio(p, u)).astype(u.dtype), updates, params), state

    return optax.GradientTransformation(optax.init_empty_state, update)
