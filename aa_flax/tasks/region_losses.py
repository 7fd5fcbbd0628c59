"""What the box head of a two-stage detector is trained on: a few regions of each image, and their losses.

Fast R-CNN (Girshick, 2015) and Faster R-CNN (Ren et al., 2015), as torchvision and detectron2 have them.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int32, Key

from aa_flax.models.rcnn_options import RCNNOptions
from aa_flax.ops import encode_boxes, match_anchors, sample
from aa_flax.ops.matching import IGNORED
from aa_flax.ops.mesh import on_own_images
from aa_flax.precision import at_least_float32
from aa_flax.tasks.proposal_losses import box_loss


class SampledRegions(NamedTuple):
    """The regions of each image that the losses look at, those with an object first.

    Attributes:
        indices: among the boxes that they were drawn from.
        matches: the object in each, -1 for none, -2 for a place that is not used.
        boxes: on the canvas; 0 in places that are not used.
    """

    indices: Int32[Array, "b n"]
    matches: Int32[Array, "b n"]
    boxes: Float[Array, "b n 4"]


def sampled_regions(
    options: RCNNOptions,
    boxes: Float[Array, "b k 4"],
    valid: Bool[Array, "b k"],
    objects: dict[str, Array],
    keys: Key[Array, " b"],
) -> SampledRegions:
    """Return random ones of the boxes of each image, drawn with its own key; no gradient flows into them.

    A box has the object that it overlaps most, if their IoU is at least `box_foreground_iou`, and is background else.

    Args:
        options: of the network.
        boxes: of proposals, and in training of the objects too.
        valid: which of them are there.
        objects: "boxes" [b, n, 4] on the canvas and "valid" [b, n].
        keys: of each image.
    """

    def of_one(boxes: Array, valid: Array, truths: Array, there: Array, key: Array) -> tuple[Array, ...]:
        least = options.box_foreground_iou
        matches = match_anchors(boxes, truths, there, foreground=least, background=least, forced=None)
        drawn = sample(
            jnp.where(valid, matches, IGNORED),
            key,
            number=options.box_samples,
            positive_fraction=options.box_positive_fraction,
        )
        return drawn.indices, drawn.matches, jnp.where(drawn.valid[:, None], boxes[drawn.indices], 0)

    arrays = jax.lax.stop_gradient(boxes), valid, objects["boxes"], objects["valid"], keys
    return SampledRegions(*on_own_images(jax.vmap(of_one), (True,) * 5, name="sampled_regions")(*arrays))


def with_objects(
    boxes: Float[Array, "b k 4"], valid: Bool[Array, "b k"], objects: dict[str, Array]
) -> tuple[Float[Array, "b more 4"], Bool[Array, "b more"]]:
    """Return proposals, and which are there, with the objects themselves after them."""
    return jnp.concatenate([boxes, objects["boxes"]], 1), jnp.concatenate([valid, objects["valid"]], 1)


def region_losses(
    options: RCNNOptions,
    outputs: dict[str, Array],
    sampled: SampledRegions,
    objects: dict[str, Array],
) -> tuple[Float[Array, " b"], Float[Array, " b"]]:
    """Return each image's losses of classes and of boxes, both divided by the number of its sampled regions.

    That of classes is the cross-entropy of the softmax, background included. That of a box is the sum over its four
    numbers, which belong to the class of the object, of regions with an object.

    torchvision and detectron2 divide by the number in the batch. How many there are the network decides, so that it is
    not known before micro-batches are cut; the mean over images of these means is the same wherever each image has all
    of its `box_samples`, as it has but for very small images.

    Args:
        options: of the network.
        outputs: of the sampled regions, "classes" [b, n, columns], logits with background, and "boxes"
            [b, n, num_classes, 4].
        sampled: as from `sampled_regions`.
        objects: "boxes" [b, objects, 4] on the canvas and "columns" [b, objects].
    """
    logits, matches = outputs["classes"], sampled.matches
    logits = logits.astype(at_least_float32(logits.dtype))
    positive, which = matches >= 0, jnp.maximum(matches, 0)
    columns = jnp.take_along_axis(objects["columns"], which, 1)
    background = options.background_column(outputs["boxes"].shape[2])
    entropy = optax.softmax_cross_entropy_with_integer_labels(logits, jnp.where(positive, columns, background))
    deltas = jnp.take_along_axis(outputs["boxes"], columns[..., None, None], 2)[..., 0, :]
    theirs = jnp.take_along_axis(objects["boxes"], which[..., None], 1)
    wanted = encode_boxes(theirs, sampled.boxes, weights=options.box_weights)
    moved = box_loss(options.box_loss, options.box_loss_beta, deltas, wanted)
    used = matches != IGNORED
    count = jnp.maximum(used.sum(1), 1).astype(logits.dtype)
    return jnp.where(used, entropy, 0).sum(1) / count, jnp.where(positive, moved, 0).sum(1) / count
