"""Which object each anchor of a dense detector is trained to find."""

from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Bool, Float, Int32

from aa_flax.ops.boxes import at_least_float32_arrays, overlap

NEGATIVE, IGNORED = -1, -2
FORCED = (None, "best_anchor", "low_quality")
_AT_ONCE = 4
"""Objects compared with all anchors at a time: memory is this many rows of anchors and not one for each object."""


def match_anchors(
    anchors: Float[Array | np.ndarray, "anchors 4"],
    boxes: Float[Array | np.ndarray, "objects 4"],
    valid: Bool[Array | np.ndarray, " objects"],
    *,
    foreground: int | float = 0.5,
    background: int | float = 0.5,
    forced: Literal["best_anchor", "low_quality"] | None = "best_anchor",
) -> Int32[Array, " anchors"]:
    """Return for each anchor the index of its object, -1 for none (a negative), -2 for neither (left out of the loss).

    An anchor takes the valid object that it overlaps most, the first of equal ones, if their IoU is at least
    `foreground`; below `background` it is a negative, and in between ignored. Objects that no anchor reaches so well
    are forced onto some:

    * `"best_anchor"` (tensorflow/tpu): each object takes the anchor that overlaps it most, the first of equal ones,
      from whatever that anchor had; of several objects that want one anchor the first gets it.
    * `"low_quality"` (torchvision, detectron2's proposals): each anchor that overlaps an object as much as any anchor
      does takes what it itself overlaps most, which may be another object.
    * None: no object is.

    An object that no anchor overlaps, such as one without area, is forced onto none. Rows that are not valid are as if
    they were absent. Give the anchors as an argument to what is compiled rather than as its constant.
    """
    if not 0 <= background <= foreground <= 1:
        raise ValueError(f"0 <= background <= foreground <= 1 must hold, got background={background}, {foreground=}")
    if forced not in FORCED:
        raise ValueError(f"forced must be one of {', '.join(map(repr, FORCED))}, got {forced!r}")
    anchors, boxes = map(jax.lax.stop_gradient, at_least_float32_arrays(anchors, boxes))
    best, which, seized = _best(anchors, boxes, jnp.asarray(valid), forced)
    matched = jnp.where(best >= foreground, which, jnp.where(best < background, NEGATIVE, IGNORED))
    if forced == "low_quality":
        return jnp.where(seized >= 0, which, matched)
    return jnp.where(seized >= 0, seized, matched)


def _best(anchors: Array, boxes: Array, valid: Array, forced: str | None) -> tuple[Array, ...]:
    """Return for each anchor its largest IoU, with which object, and the first object that seizes it, -1 for none."""
    objects, number = boxes.shape[0], anchors.shape[0]
    places = jnp.arange(number, dtype=jnp.int32)

    def compare(best: tuple[Array, ...], group: tuple[Array, ...]) -> tuple[tuple[Array, ...], None]:
        best_iou, which, seized = best
        some, there, index = group
        iou = jnp.where(there[:, None], overlap(some[:, None], anchors[None, :]), -1)
        # Equality below is of one number with itself. Without the barrier a compiler may compute IoU once for the
        # maximum and once for the comparison, rounded differently.
        iou = jax.lax.optimization_barrier(iou)
        largest = iou.max(0)
        first = jnp.where(iou == largest[None, :], index[:, None], objects).min(0)
        which, best_iou = jnp.where(largest > best_iou, first, which), jnp.maximum(largest, best_iou)
        if forced is not None:
            row_best = iou.max(1, keepdims=True)
            reached = (iou == row_best) & (row_best > 0)
            if forced == "best_anchor":
                place = jnp.where(reached, places[None, :], number).min(1)
                reached = places[None, :] == place[:, None]
            taken = jnp.where(reached, index[:, None], objects).min(0)
            seized = jnp.where((seized < 0) & (taken < objects), taken, seized)
        return (best_iou, which, seized), None

    groups, extra = -(-objects // _AT_ONCE), -objects % _AT_ONCE
    split = [
        jnp.pad(array, [(0, extra), *[(0, 0)] * (array.ndim - 1)]).reshape(groups, _AT_ONCE, *array.shape[1:])
        for array in (boxes, valid, jnp.arange(objects, dtype=jnp.int32))
    ]
    start = (jnp.full(number, -1, anchors.dtype), *(jnp.full(number, NEGATIVE, jnp.int32) for _ in range(2)))
    return jax.lax.scan(compare, start, tuple(split))[0]
