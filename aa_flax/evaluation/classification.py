"""Scores of a classifier, as pure functions."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from aa_flax.precision import at_least_float32


def confusion_and_loss(
    logits: Float[Array, "b classes"], labels: Int[Array, " b"], mask: Bool[Array, " b"]
) -> dict[str, Array]:
    """Return sums over the examples whose mask is True, by name.

    "loss" is the sum of the cross-entropies in nats, in at least float32. "confusion" is int32 [classes, classes]:
    entry (i, j) counts the examples of class i that were predicted as class j.
    """
    classes = logits.shape[-1]
    logits = logits.astype(at_least_float32(logits.dtype))
    losses = -jnp.take_along_axis(jax.nn.log_softmax(logits), labels[:, None], 1)[:, 0]
    cells = labels * classes + logits.argmax(-1)
    counts = jnp.zeros(classes * classes, jnp.int32).at[cells].add(mask.astype(jnp.int32))
    return {"loss": jnp.sum(jnp.where(mask, losses, 0)), "confusion": counts.reshape(classes, classes)}


def in_top(
    logits: Float[Array, "b classes"], labels: Int[Array, " b"], mask: Bool[Array, " b"], k: int
) -> Int[Array, ""]:
    """Return how many of the examples whose mask is True have their label among the k classes of largest logits.

    Of equal logits the lower class comes first, and NaN counts as the largest, as in argmax: with k = 1 it is the trace
    of the confusion. Classes are counted, not sorted, so that nothing travels between devices that share the batch.
    """
    logits = logits.astype(at_least_float32(logits.dtype))
    logits = jnp.where(jnp.isnan(logits), jnp.inf, logits)
    own, classes = jnp.take_along_axis(logits, labels[:, None], 1), jnp.arange(logits.shape[-1])[None]
    before = (logits > own) | ((logits == own) & (classes < labels[:, None]))
    return jnp.sum((before.sum(-1) < k) & mask, dtype=jnp.int32)


def per_class(confusion: Int[np.ndarray, "classes classes"]) -> list[float]:
    """Return the fraction of the examples of each class that were predicted correctly; NaN for a class without any."""
    totals = confusion.sum(1)
    return [float(c / t) if t else float("nan") for c, t in zip(np.diag(confusion), totals, strict=True)]
