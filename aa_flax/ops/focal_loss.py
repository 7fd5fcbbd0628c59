"""The focal loss of dense detectors."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Bool, Float, Int

from aa_flax.precision import at_least_float32


def sigmoid_focal_loss(
    logits: Float[Array | np.ndarray, "*shape"],
    targets: Float[Array | np.ndarray, "*shape"] | Int[Array | np.ndarray, "*shape"] | Bool[Array, "*shape"],
    *,
    alpha: int | float | None = 0.25,
    gamma: int | float = 1.5,
) -> Float[Array, "*shape"]:
    """Return alpha_t (1 - p_t)**gamma CE(logit, target) of each logit, in at least float32.

    CE is the binary cross-entropy in nats, p_t the probability of the target: p for a target of 1, 1 - p for 0, and in
    between t p + (1 - t)(1 - p); alpha_t likewise of `alpha` and 1 - `alpha`, 1 for None. Lin et al. (2017), eq. 5,
    with gamma 2; the default is that of tensorflow/tpu's RetinaNet.

    Everything is computed from log σ(±logit): 1 - σ is 0 in float32 for logits above 17, where a power has no second
    derivative for gamma below 2. `optax.sigmoid_focal_loss` agrees, but holds two more arrays of twice the size.
    """
    logits = jnp.asarray(logits)
    dtype = at_least_float32(logits.dtype)
    logits, targets = logits.astype(dtype), jnp.asarray(targets).astype(dtype)
    log_p, log_q = jax.nn.log_sigmoid(logits), jax.nn.log_sigmoid(-logits)
    cross_entropy = -targets * log_p - (1 - targets) * log_q
    loss = jnp.exp(gamma * _log_miss(log_p, log_q, targets)) * cross_entropy
    return loss if alpha is None else (alpha * targets + (1 - alpha) * (1 - targets)) * loss


def _log_miss(log_p: Array, log_q: Array, targets: Array) -> Array:
    """Return log(1 - p_t) = log(t q + (1 - t) p), for targets of 0 and 1 without a sum that could round to 0."""
    soft = (targets > 0) & (targets < 1)
    mixed = targets * jnp.exp(log_q) + (1 - targets) * jnp.exp(log_p)
    return jnp.where(soft, jnp.log(jnp.where(soft, mixed, 1)), jnp.where(targets > 0, log_q, log_p))
