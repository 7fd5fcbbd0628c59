"""From the outputs of a region proposal network to the boxes that a detector's second stage looks at."""

import functools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Real

from aa_flax.ops.boxes import boxes_at, clip_boxes, decode_boxes, require_boxes
from aa_flax.ops.candidates import top_candidates
from aa_flax.ops.mesh import on_own_images
from aa_flax.ops.nms import nms


class Proposals(NamedTuple):
    """The boxes that may hold an object in each image, in falling logit.

    Attributes:
        boxes: x1, y1, x2, y2 in pixels of the network's input, inside the image.
        logits: of there being an object.
        valid: which places hold a proposal; the others, all at the end, have box 0 and logit -inf.
    """

    boxes: Float[Array, "b k 4"]
    logits: Float[Array, "b k"]
    valid: Bool[Array, "b k"]


def top_proposals(
    objectness: Float[Array | np.ndarray, "b anchors"],
    deltas: Float[Array | np.ndarray, "b anchors 4"],
    anchors: Float[Array | np.ndarray, "anchors 4"],
    *,
    level_anchors: Sequence[int],
    sizes: Real[Array | np.ndarray, "b 2"],
    per_level: int,
    most: int,
    iou_threshold: int | float = 0.7,
    least_side: int | float = 1e-3,
    max_log_side: int | float | None = math.log(1000 / 16),
) -> Proposals:
    """Return the proposals of a batch by the outputs of a region proposal network (Ren et al., 2015).

    Of each level the `per_level` anchors of the highest logits are decoded to boxes and clipped to the image. Boxes
    with a side below `least_side` fall, and boxes that one of the same level and a higher logit overlaps by more than
    `iou_threshold`. The `most` highest logits of all levels are left. Boxes are ordered by logit and not by its
    sigmoid, which saturates; of equal ones the lower anchor goes first. A NaN is no proposal. No gradient flows into
    proposals.

    Args:
        objectness: logits.
        deltas: what `decode_boxes` takes.
        anchors: in pixels of the network's input, the levels one after another.
        level_anchors: how many anchors each level has.
        sizes: height and width of each image within the canvas, in pixels.
        max_log_side: see `decode_boxes`.
    """
    require_boxes(2, anchors=anchors)
    require_boxes(deltas=deltas)
    number = np.shape(anchors)[0]
    if sum(level_anchors) != number:
        raise ValueError(f"level_anchors must add up to {number} anchors, got {level_anchors!r}")
    if np.shape(objectness)[1:] != (number,) or np.shape(deltas)[1:] != (number, 4):
        raise ValueError(
            f"objectness and deltas must have the shapes [b, {number}] and [b, {number}, 4], got "
            f"{np.shape(objectness)} and {np.shape(deltas)}"
        )
    if np.shape(sizes) != (np.shape(objectness)[0], 2):
        raise ValueError(f"sizes must have the shape [{np.shape(objectness)[0]}, 2], got {np.shape(sizes)}")
    for name, count in (("per_level", per_level), ("most", most)):
        if isinstance(count, bool | float) or count < 1:
            raise ValueError(f"{name} must be a whole number of at least 1, got {count!r}")
    if not 0 <= iou_threshold <= 1:
        raise ValueError(f"iou_threshold must lie in [0, 1], got {iou_threshold!r}")
    if not least_side >= 0:
        raise ValueError(f"least_side must be at least 0, got {least_side!r}")
    settings = (tuple(level_anchors), per_level, most, float(iou_threshold), float(least_side), max_log_side)
    arrays = map(jax.lax.stop_gradient, map(jnp.asarray, (objectness, deltas, anchors, sizes)))
    return _proposals(settings, *arrays)


@functools.partial(jax.jit, static_argnums=0)
def _proposals(settings: Any, objectness: Array, deltas: Array, anchors: Array, sizes: Array) -> Proposals:
    level_anchors, per_level, most, iou_threshold, least_side, max_log_side = settings

    def of_one(anchors: Array, objectness: Array, deltas: Array, size: Array) -> tuple[Array, ...]:
        first, found = 0, []
        for level, number in enumerate(level_anchors):
            best = top_candidates(objectness[first : first + number, None], per_level)
            found.append((best.logits, best.anchors + first, best.valid, jnp.full(best.valid.shape, level, jnp.int32)))
            first += number
        logits, which, valid, levels = (jnp.concatenate(parts) for parts in zip(*found, strict=True))
        boxes = clip_boxes(decode_boxes(deltas[which], boxes_at(anchors, which), max_log_side=max_log_side), size)
        valid &= (boxes[:, 2:] - boxes[:, :2] >= least_side).all(-1)
        kept, there = nms(boxes, logits, iou_threshold=iou_threshold, max_outputs=most, classes=levels, valid=valid)
        return jnp.where(there[:, None], boxes[kept], 0), jnp.where(there, logits[kept], -jnp.inf), there

    def of_all(objectness: Array, deltas: Array, anchors: Array, sizes: Array) -> tuple[Array, ...]:
        return jax.vmap(functools.partial(of_one, anchors))(objectness, deltas, sizes)

    run = on_own_images(of_all, (True, True, False, True), name="top_proposals")
    return Proposals(*run(objectness, deltas, anchors, sizes))
