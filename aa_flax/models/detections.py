"""From the outputs of a dense detector to its detections: candidates, boxes, non-maximum suppression."""

import functools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int32

from aa_flax.models.retinanet_options import RetinaNetOptions
from aa_flax.ops.boxes import boxes_at, clip_boxes, decode_boxes
from aa_flax.ops.candidates import Candidates, top_candidates
from aa_flax.ops.mesh import on_own_images
from aa_flax.ops.nms import nms


class Detections(NamedTuple):
    """What was found in each image, in falling score.

    Attributes:
        boxes: x1, y1, x2, y2 in pixels of the network's input.
        scores: between 0 and 1.
        classes: the column of the class scores.
        valid: which of the k places hold a detection; the others have box 0, score -inf and class -1.
        masks: [b, k, 28, 28], probabilities within the boxes, 0 where a place holds none; None for a detector that
            finds boxes only.
    """

    boxes: Float[Array, "b k 4"]
    scores: Float[Array, "b k"]
    classes: Int32[Array, "b k"]
    valid: Bool[Array, "b k"]
    masks: Any = None


def detections(
    outputs: Mapping[str, Array],
    anchors: Float[Array | np.ndarray, "anchors 4"],
    options: RetinaNetOptions,
    *,
    level_anchors: Sequence[int],
    sizes: Float[Array | np.ndarray, "b 2"],
) -> Detections:
    """Return the detections of a batch by the outputs of a dense detector.

    Of each image the `candidates` highest logits of all anchors and classes, or as many of each level, whose scores
    exceed `score_threshold`, are decoded to boxes, and clipped to the image if `clip`. Boxes fall where one of the same
    class and a higher logit overlaps them by more than `iou_threshold`; the first `max_detections` are left. Candidates
    are ordered by logit, not by its sigmoid, which saturates.

    Args:
        outputs: "classes" [b, anchors, classes], logits, and "boxes" [b, anchors, 4], what `decode_boxes` takes.
        anchors: in pixels of the network's input.
        options: of the network.
        level_anchors: how many anchors each level has.
        sizes: height and width of each image within the canvas, in pixels.
    """
    settings = (options, tuple(level_anchors))
    return _detections(settings, outputs["classes"], outputs["boxes"], jnp.asarray(anchors), jnp.asarray(sizes))


@functools.partial(jax.jit, static_argnums=0)
def _detections(settings: Any, logits: Array, deltas: Array, anchors: Array, sizes: Array) -> Detections:
    options, level_anchors = settings

    def of_one(anchors: Array, logits: Array, deltas: Array, size: Array) -> tuple[Array, ...]:
        found = _candidates(options, level_anchors, logits)
        boxes = decoded(options, deltas[found.anchors], boxes_at(anchors, found.anchors), size)
        kept, valid = nms(
            boxes,
            found.logits,
            iou_threshold=options.iou_threshold,
            max_outputs=options.max_detections,
            classes=found.classes,
            valid=found.valid,
            pixel_offset=options.nms_pixel_offset,
        )
        scores = jnp.where(valid, jax.nn.sigmoid(found.logits[kept]), -jnp.inf)
        boxes = jnp.where(valid[:, None], boxes[kept], 0)
        return boxes, scores, jnp.where(valid, found.classes[kept], -1), valid

    def of_all(logits: Array, deltas: Array, anchors: Array, sizes: Array) -> tuple[Array, ...]:
        return jax.vmap(functools.partial(of_one, anchors))(logits, deltas, sizes)

    run = on_own_images(of_all, (True, True, False, True), name="detections")
    return Detections(*run(logits, deltas, anchors, sizes))


def decoded(
    options: RetinaNetOptions, deltas: Float[Array, "*b n 4"], anchors: Any, sizes: Float[Array, "*b 2"]
) -> Float[Array, "*b n 4"]:
    """Return the boxes that a dense detector makes of anchors, clipped to images of these sizes if `clip`."""
    boxes = decode_boxes(deltas, anchors, max_log_side=options.max_log_side)
    return clip_boxes(boxes, sizes) if options.clip else boxes


def _candidates(options: RetinaNetOptions, level_anchors: tuple[int, ...], logits: Array) -> Candidates:
    """Return the candidates of one image, those of each level in falling logit, the levels one after another."""
    if not options.candidates_per_level:
        return top_candidates(logits, options.candidates, options.score_threshold)
    first, by_level = 0, []
    for number in level_anchors:
        found = top_candidates(logits[first : first + number], options.candidates, options.score_threshold)
        by_level.append(found._replace(anchors=found.anchors + first))
        first += number
    return Candidates(*(jnp.concatenate(parts) for parts in zip(*by_level, strict=True)))
