"""Losses of box regression, elementwise and in at least float32; masks and normalisers are the caller's."""

import jax.numpy as jnp
import numpy as np
import optax
from jax import Array
from jaxtyping import Float

from aa_flax.ops.boxes import at_least_float32_arrays, corners, overlap, require_boxes

Numbers = Float[Array | np.ndarray, "*shape"]


def huber_loss(predictions: Numbers, targets: Numbers, *, delta: int | float = 0.1) -> Float[Array, "*shape"]:
    """Return d²/2 for a difference |d| of at most `delta`, delta (|d| - delta/2) beyond.

    tensorflow/tpu's RetinaNet takes delta 0.1.
    """
    if not delta > 0:
        raise ValueError(f"delta must be above 0, got {delta!r}; l1_loss has no quadratic part")
    predictions, targets = at_least_float32_arrays(predictions, targets)
    return optax.huber_loss(predictions, targets, delta=delta)


def smooth_l1_loss(predictions: Numbers, targets: Numbers, *, beta: int | float = 1.0) -> Float[Array, "*shape"]:
    """Return d²/(2 beta) for a difference |d| below `beta`, |d| - beta/2 beyond; |d| for beta 0.

    Fast R-CNN (Girshick, 2015), eq. 3, has beta 1; torchvision's region proposals have 1/9.
    """
    if not beta >= 0:
        raise ValueError(f"beta must be at least 0, got {beta!r}")
    if beta == 0:
        return l1_loss(predictions, targets)
    return huber_loss(predictions, targets, delta=beta) / beta


def l1_loss(predictions: Numbers, targets: Numbers) -> Float[Array, "*shape"]:
    """Return |d| of each difference d; the gradient where it is 0 is 0."""
    predictions, targets = at_least_float32_arrays(predictions, targets)
    difference = predictions - targets
    return difference * jnp.sign(difference)  # the derivative that JAX has for abs at 0 is 1


def giou_loss(
    boxes: Float[Array | np.ndarray, "*b 4"], targets: Float[Array | np.ndarray, "*b 4"]
) -> Float[Array, "*b"]:
    """Return 1 - GIoU of each box with its target, between 0 and 2 (Rezatofighi et al., 2019)."""
    require_boxes(boxes=boxes, targets=targets)
    boxes, targets = at_least_float32_arrays(boxes, targets)
    return 1 - overlap(corners(boxes), corners(targets), "giou")
