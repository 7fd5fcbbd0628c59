"""Losses of classification, and the target distributions that they compare with."""

from collections.abc import Callable

import jax
import optax
from jaxtyping import Array, Float, Int

from aa_flax.precision import at_least_float32


def target_distribution(
    labels: Int[Array, " b"], num_classes: int, smoothing: float
) -> Float[Array, "b {num_classes}"]:
    """Return one-hot labels mixed with the uniform distribution: (1 - smoothing) one-hot + smoothing / num_classes."""
    return optax.smooth_labels(jax.nn.one_hot(labels, num_classes), smoothing)


def cross_entropy(logits: Float[Array, "b k"], targets: Float[Array, "b k"]) -> Float[Array, " b"]:
    """Return the cross-entropy in nats of each example, in at least float32."""
    logits = logits.astype(at_least_float32(logits.dtype))
    return optax.softmax_cross_entropy(logits, targets)


def binary_cross_entropy(logits: Float[Array, "b k"], targets: Float[Array, "b k"]) -> Float[Array, " b"]:
    """Return -(t log σ(x) + (1 - t) log(1 - σ(x))), the mean over classes, in at least float32.

    Each class is a binary decision of its own, which "ResNet strikes back" (Wightman et al., 2021) argues for where
    images are mixed. It is the mean and not the sum, as in the code of DeiT III (Touvron et al., 2022).
    """
    logits = logits.astype(at_least_float32(logits.dtype))
    return optax.sigmoid_binary_cross_entropy(logits, targets).mean(-1)


LOSSES: dict[str, Callable[[Array, Array], Array]] = {
    "cross_entropy": cross_entropy,
    "binary_cross_entropy": binary_cross_entropy,
}
"""Losses by the name that configs give them."""
