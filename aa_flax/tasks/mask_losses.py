"""What the mask head of Mask R-CNN (He et al., 2017) is trained on: a square for each region, and its loss."""

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int, UInt8

from aa_flax.precision import at_least_float32


def mask_targets(
    masks: UInt8[Array, "b objects s s"],
    boxes: Float[Array, "b objects 4"],
    regions: Float[Array, "b n 4"],
    matches: Int[Array, "b n"],
    *,
    side: int,
    hard: bool,
    aligned: bool,
) -> Float[Array, "b n {side} {side}"]:
    """Return how much of each cell of a region its object covers, from 0 to 1; what lies outside its box is 0.

    The part is exact for the square that stands for the mask, by s cells a side. torchvision and detectron2 take the
    mean of points at the photograph's pixels instead, about one a pixel: of a region with fewer pixels than cells their
    targets are smoother. Of `hard` targets a cell is 1 if half of it or more is covered, as detectron2 has it for run
    lengths; polygons it rasterises to the cells.

    Args:
        masks: of each object, 0 and 1, for the cells of its box.
        boxes: of each object on the canvas.
        regions: on the canvas.
        matches: the object of each region; of others, below 0, the target has no meaning.
        side: cells of a region down and across.
        hard: whether targets are 0 and 1.
        aligned: as in RoIAlign, with which torchvision makes its targets: if not, regions lie half a pixel of the
            canvas further down and right, and have a pixel's sides at least.
    """
    which = jnp.maximum(matches, 0)
    theirs = jnp.take_along_axis(boxes, which[..., None], 1)
    squares = jnp.take_along_axis(masks, which[..., None, None], 1).astype(jnp.float32)
    across, down = (_shares(theirs, regions, axis, masks.shape[-1], side, aligned) for axis in (0, 1))
    # At full precision: products of 0, 1 and shares that add up to 1 decide whether a half is covered.
    covered = jnp.einsum("bnys,bnst,bnxt->bnyx", down, squares, across, precision=jax.lax.Precision.HIGHEST)
    return (covered >= 0.5).astype(jnp.float32) if hard else covered


def _shares(
    boxes: Float[Array, "b n 4"], regions: Float[Array, "b n 4"], axis: int, cells: int, side: int, aligned: bool
) -> Float[Array, "b n {side} {cells}"]:
    """Return which share of each of a region's cells each of its object's cells covers along x (axis 0) or y (1)."""
    start, length = boxes[..., axis], boxes[..., axis + 2] - boxes[..., axis]
    first, last = regions[..., axis], regions[..., axis + 2]
    if not aligned:
        first, last = first + 0.5, jnp.maximum(last, first + 1) + 0.5
    scale = cells / jnp.maximum(length, 1e-6)
    first, last = (first - start) * scale, (last - start) * scale
    step = (jnp.maximum(last - first, 1e-6) / side)[..., None, None]
    begins = first[..., None, None] + step * jnp.arange(side, dtype=step.dtype).reshape(1, 1, side, 1)
    left = jnp.arange(cells, dtype=step.dtype).reshape(1, 1, 1, cells)
    return jnp.maximum(jnp.minimum(begins + step, left + 1) - jnp.maximum(begins, left), 0) / step


def mask_losses(
    logits: Float[Array, "b n m m columns"],
    targets: Float[Array, "b n m m"],
    columns: Int[Array, "b n"],
    positive: Bool[Array, "b n"],
) -> Float[Array, " b"]:
    """Return each image's sum, over regions with an object, of the mean binary cross-entropy of their cells.

    Only the mask of the object's class has a loss, in at least float32 (He et al., 2017, section 3).

    Args:
        logits: of every class's mask of each region.
        targets: of each region, from 0 to 1.
        columns: of the object's class.
        positive: which regions have an object.
    """
    logits = logits.astype(at_least_float32(logits.dtype))
    of_class = jnp.take_along_axis(logits, columns[:, :, None, None, None], -1)[..., 0]
    entropy = optax.sigmoid_binary_cross_entropy(of_class, targets).mean((2, 3))
    return jnp.where(positive, entropy, 0).sum(1)
