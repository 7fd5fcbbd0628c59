"""Weights of classes in the loss, for data that has many images of one class and few of another."""

from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from aa_flax.config.values import ConfigError

FIELD = "config field 'task.options.class_weights'"


def check_weights(weights: Sequence[float], class_names: Sequence[str]) -> None:
    """Raise ConfigError unless there is one weight for each class."""
    if len(weights) != len(class_names):
        raise ConfigError(
            f"{FIELD} has {len(weights)} numbers for {len(class_names)} classes: {', '.join(class_names[:5])}"
            + ", ..." * (len(class_names) > 5)
        )


def balanced_weights(labels: Int[np.ndarray, " n"], class_names: Sequence[str]) -> tuple[float, ...]:
    """Return the weights with which every class counts the same: n / (classes · images of the class).

    Their mean over the n images is 1. scikit-learn calls these "balanced" too.

    Raises:
        ConfigError: a class has no image.
    """
    counts = np.bincount(labels, minlength=len(class_names))
    if not counts.all():
        missing = [class_names[k] for k in np.flatnonzero(counts == 0)[:5]]
        raise ConfigError(f"{FIELD} is 'balanced', but the training split has no image of {', '.join(missing)}")
    return tuple((len(labels) / (len(counts) * counts)).tolist())


def weights_of_images(
    distributions: Float[Array, "b k"], weights: Float[Array, " k"], smoothing: float
) -> Float[Array, " b"]:
    """Return the weight of each image: that of its class, or of its classes in the shares in which they are mixed.

    Args:
        distributions: target distributions; label smoothing, which is in them, does not change an image's weight.
        weights: the weight of each class.
        smoothing: the label smoothing.
    """
    return (distributions @ weights - smoothing * jnp.mean(weights)) / (1 - smoothing)
