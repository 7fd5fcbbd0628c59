"""What a region proposal network is trained on: a few anchors of each image, and their losses (Ren et al., 2015)."""

from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Bool, Float, Int32, Key

from aa_flax.models.rcnn_options import RCNNOptions
from aa_flax.ops import encode_boxes, l1_loss, match_anchors, sample, smooth_l1_loss
from aa_flax.ops.boxes import boxes_at
from aa_flax.ops.matching import IGNORED
from aa_flax.ops.mesh import on_own_images, over_batch
from aa_flax.precision import at_least_float32


class SampledAnchors(NamedTuple):
    """The anchors of each image that the losses look at, those that are to find an object first.

    Attributes:
        indices: among all anchors.
        matches: the object that each is to find, -1 for none, -2 for a place that is not used.
    """

    indices: Int32[Array, "b n"]
    matches: Int32[Array, "b n"]


def sampled_anchors(
    options: RCNNOptions,
    anchors: Float[Array | np.ndarray, "anchors 4"],
    boxes: Float[Array, "b objects 4"],
    valid: Bool[Array, "b objects"],
    keys: Key[Array, " b"],
) -> SampledAnchors:
    """Return random anchors of each image, drawn with its own key; all follows from the objects, not from the network.

    Args:
        options: of the network.
        anchors: in pixels of the canvas.
        boxes: of the objects, on the canvas.
        valid: which of them are there.
        keys: of each image.
    """

    def of_one(boxes: Array, valid: Array, key: Array, anchors: Array) -> tuple[Array, Array]:
        matches = match_anchors(
            anchors,
            boxes,
            valid,
            foreground=options.rpn_foreground_iou,
            background=options.rpn_background_iou,
            forced=options.rpn_forced_matches,
        )
        drawn = sample(matches, key, number=options.rpn_samples, positive_fraction=options.rpn_positive_fraction)
        return drawn.indices, drawn.matches

    of_all = jax.vmap(of_one, (0, 0, 0, None))
    run = on_own_images(of_all, (True, True, True, False), name="sampled_anchors")
    return SampledAnchors(*run(boxes, valid, keys, jnp.asarray(anchors)))


def proposal_losses(
    options: RCNNOptions,
    outputs: dict[str, Array],
    anchors: Float[Array | np.ndarray, "anchors 4"],
    boxes: Float[Array, "b objects 4"],
    sampled: SampledAnchors,
) -> tuple[Float[Array, " b"], Float[Array, " b"]]:
    """Return each image's sum of the losses of objectness and of boxes over its sampled anchors.

    That of objectness is the binary cross-entropy; that of a box the sum over its four numbers, of anchors that are to
    find an object.

    Args:
        options: of the network.
        outputs: "objectness" [b, anchors], logits, and "proposal_deltas" [b, anchors, 4].
        anchors, boxes, sampled: as of `sampled_anchors`.
    """
    indices, matches = sampled
    logits = jnp.take_along_axis(outputs["objectness"], indices, 1)
    logits = logits.astype(at_least_float32(logits.dtype))
    positive = matches >= 0
    entropy = optax.sigmoid_binary_cross_entropy(logits, positive)
    deltas = jnp.take_along_axis(outputs["proposal_deltas"], indices[..., None], 1)
    theirs = jnp.take_along_axis(boxes, jnp.maximum(matches, 0)[..., None], 1)
    of_indices = over_batch(lambda indices, anchors: boxes_at(anchors, indices), (True, False))
    wanted = encode_boxes(theirs, of_indices(indices, jnp.asarray(anchors)))
    moved = box_loss(options.rpn_box_loss, options.rpn_box_loss_beta, deltas, wanted)
    return jnp.where(matches != IGNORED, entropy, 0).sum(1), jnp.where(positive, moved, 0).sum(1)


def box_loss(
    form: Literal["smooth_l1", "l1"], beta: float, deltas: Float[Array, "*b 4"], wanted: Float[Array, "*b 4"]
) -> Float[Array, "*b"]:
    """Return the loss of each box, the sum over its four numbers."""
    missed = l1_loss(deltas, wanted) if form == "l1" else smooth_l1_loss(deltas, wanted, beta=beta)
    return missed.sum(-1)
