"""From the outputs of a detector's second stage to its detections: classes, boxes, non-maximum suppression."""

import functools
import math
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from aa_flax.models.detections import Detections
from aa_flax.models.rcnn_options import RCNNOptions
from aa_flax.ops.boxes import clip_boxes, decode_boxes
from aa_flax.ops.mesh import on_own_images
from aa_flax.ops.nms import nms
from aa_flax.precision import at_least_float32


def region_detections(
    outputs: Mapping[str, Array],
    proposals: Float[Array, "b n 4"],
    valid: Bool[Array, "b n"],
    options: RCNNOptions,
    *,
    sizes: Float[Array | np.ndarray, "b 2"],
) -> Detections:
    """Return the detections of a batch by the outputs of the box head for its proposals.

    Scores are the softmax over classes and background. Every pair of proposal and class, background excepted, whose
    score exceeds `score_threshold` is decoded to a box, by the deltas of that class, and clipped to the image; with a
    side below `box_least_side` it falls. So do boxes that one of the same class and a higher score overlaps by more
    than `iou_threshold`; the first `max_detections` are left. Pairs are ordered by the logarithm of the score.

    Args:
        outputs: "classes" [b, n, columns], logits, and "boxes" [b, n, classes, 4], what `decode_boxes` takes.
        proposals: in pixels of the network's input.
        valid: which places hold a proposal.
        options: of the network.
        sizes: height and width of each image within the canvas, in pixels.
    """
    arrays = outputs["classes"], outputs["boxes"], proposals, valid, jnp.asarray(sizes)
    return _region_detections(options, *arrays)


@functools.partial(jax.jit, static_argnums=0)
def _region_detections(options: RCNNOptions, *arrays: Array) -> Detections:
    run = jax.vmap(functools.partial(_of_one, options))
    return Detections(*on_own_images(run, (True,) * len(arrays), name="region_detections")(*arrays))


def _of_one(
    options: RCNNOptions, logits: Array, deltas: Array, proposals: Array, there: Array, size: Array
) -> tuple[Array, ...]:
    background = options.background_column(logits.shape[-1] - 1)
    first = int(background == 0)
    of_objects = log_probabilities(logits)[:, first : logits.shape[-1] - 1 + first]
    log_scores, column = jax.lax.top_k(of_objects, _most_above(options.score_threshold, of_objects.shape[-1]))
    column = column.astype(jnp.int32) + first
    of_column = jnp.take_along_axis(deltas, column[..., None], 1)
    boxes = _decoded(options, of_column, proposals, size)
    able = jnp.repeat(there, column.shape[1]) & (boxes[:, 2:] - boxes[:, :2] >= options.box_least_side).all(-1)
    log_scores, column = log_scores.reshape(-1), column.reshape(-1)
    if options.score_threshold is not None:
        able &= jnp.exp(log_scores) > options.score_threshold
    kept, valid = nms(
        boxes,
        log_scores,
        iou_threshold=options.iou_threshold,
        max_outputs=options.max_detections,
        classes=column,
        valid=able,
    )
    scores = jnp.where(valid, jnp.exp(log_scores[kept]), -jnp.inf)
    return jnp.where(valid[:, None], boxes[kept], 0), scores, jnp.where(valid, column[kept], -1), valid


def region_candidates(
    outputs: Mapping[str, Array],
    proposals: Float[Array, "b n 4"],
    valid: Bool[Array, "b n"],
    options: RCNNOptions,
    *,
    sizes: Float[Array, "b 2"],
) -> tuple[Float[Array, "b n columns"], Float[Array, "b n classes 4"]]:
    """Return what `region_detections`, which has the arguments, chooses from: scores and boxes of each column.

    They are of all proposals; scores are 0 where a place holds none.
    """
    deltas = outputs["boxes"]
    boxes = jax.vmap(functools.partial(_decoded, options))(deltas, proposals, sizes).reshape(deltas.shape)
    scores = jnp.where(valid[..., None], jnp.exp(log_probabilities(outputs["classes"])), 0)
    return scores, boxes


def _decoded(
    options: RCNNOptions, deltas: Float[Array, "n k 4"], proposals: Float[Array, "n 4"], size: Float[Array, "2"]
) -> Float[Array, "nk 4"]:
    """Return the boxes that k rows of deltas make of each proposal of an image, within it."""
    boxes = decode_boxes(deltas, proposals[:, None], options.box_weights, max_log_side=options.max_log_side)
    return clip_boxes(boxes.reshape(-1, 4), size)


def _most_above(threshold: float | None, classes: int) -> int:
    """Return how many classes of one region can have a score above the threshold: scores add up to 1."""
    return classes if not threshold else min(classes, math.floor(1 / threshold))


def log_probabilities(logits: Float[Array, "*b columns"]) -> Float[Array, "*b columns"]:
    """Return the logarithm of the softmax over the last axis, in at least float32.

    Where one column has nearly everything, its logarithm is near -0 and still exact: -log(1 + sum of the others'), so
    that scores which round to 1 keep their order.
    """
    logits = logits.astype(at_least_float32(logits.dtype))
    best = jax.nn.one_hot(jnp.argmax(logits, -1), logits.shape[-1], dtype=bool)
    shifted = logits - logits.max(-1, keepdims=True)
    others = jnp.log1p(jnp.where(best, 0, jnp.exp(shifted)).sum(-1, keepdims=True))
    return shifted - others
