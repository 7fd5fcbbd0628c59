"""A number of each batch, averaged over training."""

from typing import Any

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float


class TrainingStat(nnx.BatchStat):
    """A batch statistic that training alone reads: part of the state of a run, and of no file of weights."""


class RunningCount(nnx.Module):
    """The moving average of a number that each batch has, such as how many anchors find an object.

    detectron2's RetinaNet divides its losses by one with `momentum` 0.9 and `start` 100 (`loss_normalizer`).
    """

    def __init__(self, *, start: float = 100.0, momentum: float = 0.9) -> None:
        """Start at `start`; at each update the old average counts `momentum`, and the new number the rest."""
        self.momentum = momentum
        self.mean = TrainingStat(jnp.asarray(start, jnp.float32))

    def __call__(self, number: Float[Array, ""], *, update: bool | Bool[Array, ""]) -> Float[Array, ""]:
        """Return the average, with `number` taken into it, in place, if `update` is True."""
        mean: Any = self.mean[...]
        mean = jnp.where(update, self.momentum * mean + (1 - self.momentum) * number.astype(mean.dtype), mean)
        self.mean[...] = mean
        return mean
