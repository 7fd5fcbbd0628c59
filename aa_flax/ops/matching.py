"""Which object each anchor of a dense detector is trained to find."""

import functools
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Bool, Float, Int32

from aa_flax.ops.boxes import at_least_float32_arrays, corners, overlap, require_boxes

NEGATIVE, IGNORED = -1, -2
FORCED = (None, "best_anchor", "low_quality")


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
    require_boxes(2, anchors=anchors, boxes=boxes)
    anchors, boxes = map(jax.lax.stop_gradient, at_least_float32_arrays(anchors, boxes))
    thresholds = jnp.asarray([foreground, background], boxes.dtype)
    return _match(anchors, boxes, jnp.asarray(valid), thresholds, forced)


@functools.partial(jax.jit, static_argnums=4)
def _match(anchors: Array, boxes: Array, valid: Array, thresholds: Array, forced: str | None) -> Array:
    """Return what `match_anchors` does; compiled once for each shape, so that calls outside a program are fast too."""
    best, which, seized_by = _best(anchors, boxes, valid, forced)
    matched = jnp.where(best >= thresholds[0], which, jnp.where(best < thresholds[1], NEGATIVE, IGNORED))
    return jnp.where(seized_by >= 0, seized_by, matched)


def _best(anchors: Array, boxes: Array, valid: Array, forced: str | None) -> tuple[Array, Array, Array]:
    """Return for each anchor its largest IoU, with which object, and the object that seizes it, -1 for none.

    Objects come one after the other, so that memory is a few numbers an anchor and not the IoU of every pair, and all
    work is elementwise or a plain maximum over anchors, which processors do several numbers at a time.
    """
    objects, number = boxes.shape[0], anchors.shape[0]
    places, sides = jnp.arange(number, dtype=jnp.int32), corners(anchors)

    def compare(state: tuple[Array, ...], one: tuple[Array, ...]) -> tuple[tuple[Array, ...], Array]:
        best, which, equal = state
        box, there, index = one
        iou = jnp.where(there, overlap(corners(box), sides), -1)
        # Equality below is of one number with itself. Without the barrier a compiler may compute IoU once for the
        # maximum and once for the comparison, rounded differently.
        iou = jax.lax.optimization_barrier(iou)
        which, best = jnp.where(iou > best, index, which), jnp.maximum(best, iou)
        largest = iou.max(initial=-1)
        reached = (iou == largest) & (largest > 0)
        return (best, which, equal | reached), jnp.where(reached, places, number).min(initial=number)

    none = jnp.full(number, -1, jnp.int32)
    start: tuple[Array, ...] = (jnp.full(number, -1, anchors.dtype), none, jnp.zeros(number, bool))
    index = jnp.arange(objects, dtype=jnp.int32)
    each: tuple[Array, ...] = (boxes, valid, index)
    (best, which, equal), wanted = jax.lax.scan(compare, start, each)
    if forced == "low_quality":
        return best, which, jnp.where(equal, which, -1)
    if forced == "best_anchor":
        first = jnp.full(number, objects, jnp.int32).at[wanted].min(index, mode="drop")  # places beyond are no wishes
        return best, which, jnp.where(first < objects, first, -1)
    return best, which, none
