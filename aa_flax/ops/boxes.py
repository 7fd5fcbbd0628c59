"""Boxes: overlaps, and the numbers by which a network moves an anchor onto an object.

A box is (x1, y1, x2, y2) in pixels, the first corner at the upper left; x2 - x1 is its width. Computed in at least
float32 whatever the inputs are.
"""

from collections.abc import Sequence
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float, Int, Real

from aa_flax.precision import at_least_float32

IOU_KINDS = ("iou", "giou", "ioa")
_SMALLEST_SIDE = 1e-8
"""What is added to sides before their quotient and its logarithm, as in tensorflow/tpu's box coder."""


def box_iou(
    a: Float[Array | np.ndarray, "n 4"],
    b: Float[Array | np.ndarray, "m 4"],
    *,
    kind: Literal["iou", "giou", "ioa"] = "iou",
    pixel_offset: int | float = 0,
) -> Float[Array, "n m"]:
    """Return how much each box of `a` overlaps each of `b`.

    `"iou"` is intersection over union. `"giou"` subtracts from it the share of the smallest box around both that
    neither covers (Rezatofighi et al., 2019), and lies in (-1, 1]. `"ioa"` is the intersection over the area of the box
    of `a`, which COCO takes for crowds. Where the divisor is 0 the quotient is 0, and its gradient too; a side whose
    second corner comes first has length 0. A box with a NaN overlaps nothing.

    Args:
        pixel_offset: what is added to widths and heights. 1 is the old convention, in which (3, 3, 3, 3) is one pixel;
            tensorflow/tpu evaluates with it.
    """
    if kind not in IOU_KINDS:
        raise ValueError(f"kind must be one of {', '.join(map(repr, IOU_KINDS))}, got {kind!r}")
    require_boxes(2, a=a, b=b)
    a, b = at_least_float32_arrays(a, b)
    return overlap(corners(a[:, None]), corners(b[None, :]), kind, pixel_offset)


def corners(boxes: Float[Array, "*b 4"]) -> tuple[Array, ...]:
    """Return x1, y1, x2 and y2 of boxes as arrays of their own, which a processor reads faster than every fourth."""
    return tuple(boxes[..., place] for place in range(4))


def overlap(a: Sequence[Array], b: Sequence[Array], kind: str = "iou", pixel_offset: int | float = 0) -> Array:
    """Return the overlap of pairs of boxes, given as their `corners`, whose shapes broadcast; see `box_iou`."""
    low, high = [*map(jnp.maximum, a[:2], b[:2])], [*map(jnp.minimum, a[2:], b[2:])]
    shared = _area([*low, *high], pixel_offset)
    if kind == "ioa":
        return _quotient(shared, jnp.broadcast_to(_area(a, pixel_offset), shared.shape))
    union = _area(a, pixel_offset) + _area(b, pixel_offset) - shared
    iou = _quotient(shared, union)
    if kind == "iou":
        return iou
    low, high = [*map(jnp.minimum, a[:2], b[:2])], [*map(jnp.maximum, a[2:], b[2:])]
    around = _area([*low, *high], pixel_offset)
    return iou - _quotient(around - union, around)


def encode_boxes(
    boxes: Float[Array | np.ndarray, "*#b 4"],
    anchors: Float[Array | np.ndarray, "*#b 4"],
    weights: Sequence[int | float] = (1, 1, 1, 1),
) -> Float[Array, "*b 4"]:
    """Return the (dx, dy, dw, dh) that `decode_boxes` turns into these boxes.

    dx = weights[0] (centre of the box - centre of the anchor) / width of the anchor, dw = weights[2] log(width of the
    box / width of the anchor); dy and dh likewise. 1e-8 is added to all sides, so that a box without area has finite
    numbers and gradients (-22 for a width of 0 on an anchor 32 wide: leave such boxes out of the loss).

    Dimensions before the last one broadcast, and may differ in number. Faster R-CNN (Ren et al., 2015), eq. 2.
    """
    require_boxes(boxes=boxes, anchors=anchors)
    boxes, anchors = _of_equal_rank(boxes, anchors)
    factors = _factors(weights, boxes)
    (centre, side), (anchor_centre, anchor_side) = _centre_and_side(boxes), _centre_and_side(anchors)
    side, anchor_side = side + _SMALLEST_SIDE, anchor_side + _SMALLEST_SIDE
    moved, scaled = (centre - anchor_centre) / anchor_side, jnp.log(side / anchor_side)
    return jnp.concatenate([moved * factors[0], scaled * factors[1]], -1)


def decode_boxes(
    deltas: Float[Array | np.ndarray, "*#b 4"],
    anchors: Float[Array | np.ndarray, "*#b 4"],
    weights: Sequence[int | float] = (1, 1, 1, 1),
    max_log_side: int | float | None = None,
) -> Float[Array, "*b 4"]:
    """Return the boxes that anchors become when they are moved by (dx, dy, dw, dh), the inverse of `encode_boxes`.

    Dimensions before the last one broadcast, and may differ in number. Boxes are not clipped to the image.

    Args:
        max_log_side: the upper bound of log(side / side of the anchor); log(1000 / 16) in torchvision and detectron2.
            With None, the exponential of an untrained network may overflow.
    """
    require_boxes(deltas=deltas, anchors=anchors)
    deltas, anchors = _of_equal_rank(deltas, anchors)
    factors = _factors(weights, deltas)
    anchor_centre, anchor_side = _centre_and_side(anchors)
    log_side = deltas[..., 2:] / factors[1]
    if max_log_side is not None:
        log_side = jnp.minimum(log_side, max_log_side)
    centre, half = deltas[..., :2] / factors[0] * anchor_side + anchor_centre, jnp.exp(log_side) * anchor_side / 2
    return jnp.concatenate([centre - half, centre + half], -1)


def boxes_at(boxes: Float[Array, "n 4"], index: Int[Array, "*k"]) -> Float[Array, "*k 4"]:
    """Return `boxes[index]`, each coordinate taken from an array of its own.

    A TPU pads a row of four numbers, of which rows are taken, to 128: 138 MB for the anchors of 800×1344 pixels.
    """
    return jnp.stack([boxes[:, i][index] for i in range(4)], -1)


def clip_boxes(
    boxes: Float[Array | np.ndarray, "*b n 4"], size: Sequence[int | float | Array] | Real[Array | np.ndarray, "*b 2"]
) -> Float[Array, "*b n 4"]:
    """Return the part of each box inside its image.

    `size` is (height, width) of the one image, or such a pair for each image in front of the boxes' number. A box that
    lies outside is left without area.
    """
    require_boxes(boxes=boxes)
    (boxes,) = at_least_float32_arrays(boxes)
    bounds = jnp.asarray(size).astype(boxes.dtype)[..., None, ::-1]
    bounds = jnp.concatenate([bounds, bounds], -1)
    bounds = bounds.reshape((1,) * (boxes.ndim - bounds.ndim) + bounds.shape)
    return jnp.clip(boxes, jnp.zeros_like(bounds), bounds)


def require_boxes(rank: int | None = None, **arrays: Array | np.ndarray) -> None:
    """Raise ValueError, which names the argument, unless each array has four numbers along its last axis.

    Without this, eight numbers would be taken for two boxes, or their first four alone, in silence.

    Args:
        rank: how many axes each must have; None for any.
        arrays: by the name of the argument.
    """
    for name, array in arrays.items():
        shape = np.shape(array)
        if not shape or shape[-1] != 4 or (rank is not None and len(shape) != rank):
            wanted = "[n, 4]" if rank == 2 else "[..., 4], four numbers along the last axis"
            raise ValueError(f"{name} must have the shape {wanted}, got {shape}")


def at_least_float32_arrays(*arrays: Array | np.ndarray) -> list[Array]:
    """Return these numbers as arrays of one type, which is at least float32."""
    given = [jnp.asarray(array) for array in arrays]
    dtype = at_least_float32(*(array.dtype for array in given))
    return [array.astype(dtype) for array in given]


def _of_equal_rank(*arrays: Array | np.ndarray) -> list[Array]:
    """Put dimensions of length 1 in front, which jnp does silently only if the user's settings let it."""
    given = at_least_float32_arrays(*arrays)
    rank = max(array.ndim for array in given)
    return [array.reshape((1,) * (rank - array.ndim) + array.shape) for array in given]


def _factors(weights: Sequence[int | float], like: Array) -> tuple[np.ndarray, np.ndarray]:
    if len(weights) != 4 or not all(weight > 0 for weight in weights):
        raise ValueError(f"weights must be four numbers above 0, for dx, dy, dw and dh, got {weights!r}")
    factors = np.asarray(weights, like.dtype).reshape((1,) * (like.ndim - 1) + (4,))
    return factors[..., :2], factors[..., 2:]


def _centre_and_side(boxes: Array) -> tuple[Array, Array]:
    side = jnp.maximum(boxes[..., 2:] - boxes[..., :2], 0)
    return boxes[..., :2] + side / 2, side


def _area(box: Sequence[Array], pixel_offset: int | float) -> Array:
    x1, y1, x2, y2 = box
    return jnp.maximum(x2 - x1 + pixel_offset, 0) * jnp.maximum(y2 - y1 + pixel_offset, 0)


def _quotient(dividend: Array, divisor: Array) -> Array:
    """Return the quotient, and 0 where the divisor is not above 0; so is the gradient, thanks to the inner `where`."""
    there = divisor > 0
    divisor = jnp.where(there, divisor, 1)
    return jnp.where(there, _rounded(dividend / divisor, dividend, divisor), 0)


def _rounded(quotient: Array, dividend: Array, divisor: Array) -> Array:
    """Return the float32 that is nearest to dividend / divisor, given one that a few units in the last place may miss.

    So does the division of GPUs (XLA takes `div.full`), after which an IoU of exactly a threshold could lie on either
    side of it, and equal overlaps would differ. Where division is exact this changes nothing.
    """
    if quotient.dtype != jnp.float32:
        return quotient
    a, q, b = map(jax.lax.stop_gradient, (dividend, quotient, divisor))
    q_high, b_high = (_upper_half(number) for number in (q, b))
    q_low, b_low = q - q_high, b - b_high
    remainder = a - q_high * b_high - q_high * b_low - q_low * b_high - q_low * b_low  # each product is exact
    return quotient + jnp.where(jnp.isfinite(remainder), remainder / b, 0)


def _upper_half(number: Array) -> Array:
    """Return float32 with the lower 12 of its 24 bits cleared."""
    bits = jax.lax.bitcast_convert_type(number, jnp.uint32)
    return jax.lax.bitcast_convert_type(bits & np.uint32(0xFFFFF000), jnp.float32)
