"""What a dense detector is trained on: which anchors find which objects, and the loss of each image."""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int32

from aa_flax.models.retinanet_options import RetinaNetOptions
from aa_flax.ops import (
    decode_boxes,
    encode_boxes,
    giou_loss,
    huber_loss,
    l1_loss,
    match_anchors,
    sigmoid_focal_loss,
    smooth_l1_loss,
)
from aa_flax.ops.matching import IGNORED

_MAX_LOG_SIDE = math.log(1000 / 16)
"""The bound of torchvision and detectron2, for boxes that are decoded in the loss: without one, sides may overflow."""


def matched(
    options: RetinaNetOptions,
    anchors: Float[Array | np.ndarray, "anchors 4"],
    boxes: Float[Array, "b n 4"],
    valid: Bool[Array, "b n"],
) -> Int32[Array, "b anchors"]:
    """Return which object each anchor of each image is trained to find, as `match_anchors` numbers them."""

    def of_one(boxes: Array, valid: Array) -> Array:
        return match_anchors(
            anchors,
            boxes,
            valid,
            foreground=options.foreground_iou,
            background=options.background_iou,
            forced=options.forced_matches,
        )

    return jax.vmap(of_one)(boxes, valid)


class Shares(NamedTuple):
    """How the losses of the images of a batch become its loss: sum over images of weight times loss, over `total`."""

    weights: Float[Array, " b"]
    total: Float[Array, ""]


def shares(options: RetinaNetOptions, positives: Float[Array, " b"], parts: int) -> Shares:
    """Return the shares of images with so many positive anchors.

    "batch": the sum over the batch's images over its positives and 1; "device": the mean, over `parts` equal parts of
    the batch, of the same for each part; "image": the mean of each image's loss over its positives, at least 1;
    "running": the sum over the batch's images, which the task divides by the network's `loss_normalizer`, the moving
    average of the positives of batches. Held-out losses are those of "batch" then.
    """
    count = positives.shape[0]
    if options.normalizer == "batch":
        return Shares(jnp.ones_like(positives), positives.sum() + 1)
    if options.normalizer == "image":
        return Shares(1 / jnp.maximum(positives, 1), jnp.asarray(count, positives.dtype))
    if options.normalizer == "running":
        return Shares(jnp.ones_like(positives), jnp.ones((), positives.dtype))
    each = positives.reshape(parts, count // parts).sum(1) + 1
    return Shares(jnp.repeat(1 / each, count // parts), jnp.asarray(parts, positives.dtype))


def image_losses(
    options: RetinaNetOptions,
    outputs: dict[str, Array],
    anchors: Float[Array | np.ndarray, "anchors 4"],
    targets: dict[str, Any],
) -> tuple[Float[Array, " b"], Float[Array, " b"]]:
    """Return each image's sum of classification losses, and of box losses with their weight.

    Classification is the focal loss of every anchor and class; anchors that are left out of matching have none. The
    loss of a box is the mean over its four numbers, of positive anchors, times `box_loss_weight`; or instead of the
    mean, with "giou", 1 - GIoU of the box that the numbers give.

    Args:
        options: of the network.
        outputs: of the network, "classes" [b, anchors, columns] and "boxes" [b, anchors, 4].
        anchors: in pixels of the canvas.
        targets: "boxes" [b, n, 4] on the canvas, "columns" int [b, n] and "matched" [b, anchors].
    """
    logits, deltas, which = outputs["classes"], outputs["boxes"], targets["matched"]
    positive, object_ = which >= 0, jnp.maximum(which, 0)
    column = jnp.where(positive, jnp.take_along_axis(targets["columns"], object_, 1), -1)
    hot = column[..., None] == jnp.arange(logits.shape[-1])[None, None]
    focal = sigmoid_focal_loss(logits, hot, alpha=options.focal_alpha, gamma=options.focal_gamma)
    classes = jnp.where((which == IGNORED)[..., None], 0, focal).sum((1, 2))
    boxes = jnp.take_along_axis(targets["boxes"], object_[..., None], 1)
    of_boxes = jnp.where(positive, _box_losses(options, deltas, boxes, jnp.asarray(anchors)[None]), 0).sum(1)
    return classes, options.box_loss_weight * of_boxes


def _box_losses(
    options: RetinaNetOptions,
    deltas: Float[Array, "b anchors 4"],
    boxes: Float[Array, "b anchors 4"],
    anchors: Float[Array, "1 anchors 4"],
) -> Float[Array, "b anchors"]:
    """Return the loss of each anchor whose box is to be the one given."""
    if options.box_loss == "giou":
        bound = _MAX_LOG_SIDE if options.max_log_side is None else options.max_log_side
        return giou_loss(decode_boxes(deltas, anchors, max_log_side=bound), boxes)
    wanted = encode_boxes(boxes, anchors)
    if options.box_loss == "huber":
        missed = huber_loss(deltas, wanted, delta=options.box_loss_delta)
    elif options.box_loss == "smooth_l1":
        missed = smooth_l1_loss(deltas, wanted, beta=options.box_loss_delta)
    else:
        missed = l1_loss(deltas, wanted)
    return missed.mean(-1)
