"""Losses."""

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int


def target_distribution(
    labels: Int[Array, " b"], num_classes: int, smoothing: float
) -> Float[Array, "b {num_classes}"]:
    """One-hot labels mixed with the uniform distribution: (1 - smoothing) one-hot + smoothing / num_classes."""
    return optax.smooth_labels(jax.nn.one_hot(labels, num_classes), smoothing)


def cross_entropy(logits: Float[Array, "b k"], targets: Float[Array, "b k"]) -> Float[Array, " b"]:
    """Cross-entropy in nats of each example, in at least float32."""
    logits = logits.astype(jnp.promote_types(logits.dtype, jnp.float32))
    return optax.softmax_cross_entropy(logits, targets)
