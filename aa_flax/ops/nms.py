"""Non-maximum suppression that is greedy to the letter, with static shapes."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Bool, Float, Int, Int32

from aa_flax.ops.boxes import at_least_float32_arrays, corners, overlap, require_boxes

_TILE = 256
"""Candidates that are decided at a time: memory is this many times the number of outputs, and of themselves."""


class _Kept(NamedTuple):
    """The boxes kept so far, `number` of them, in falling score."""

    boxes: Array
    classes: Array
    indices: Array
    number: Array


def nms(
    boxes: Float[Array | np.ndarray, "n 4"],
    scores: Float[Array | np.ndarray, " n"],
    *,
    iou_threshold: int | float | Float[Array, ""],
    max_outputs: int,
    classes: Int[Array | np.ndarray, " n"] | None = None,
    valid: Bool[Array | np.ndarray, " n"] | None = None,
    pixel_offset: int | float = 0,
) -> tuple[Int32[Array, " {max_outputs}"], Bool[Array, " {max_outputs}"]]:
    """Return the indices of the boxes that are kept, in falling score, and which of these indices are valid.

    The box of the highest score is kept; all of its class whose IoU with it is above `iou_threshold` fall; and so on
    with the highest of those left. Of equal scores the lower index goes first. A NaN score is never kept, nor is a row
    that is not valid, and neither makes another fall. Unused indices are 0.

    Exact under `jit` and `vmap`. Candidates are sorted, then decided in tiles: those that overlap a kept box fall, and
    among the rest "kept if no kept one before it overlaps it" is applied until nothing changes, which is the greedy
    answer, as the first j candidates are final after j times. It ends when there are enough.

    Args:
        iou_threshold: a box falls above it, not at it.
        classes: boxes of different classes do not suppress each other; None for one class.
        pixel_offset: what is added to widths and heights; see `box_iou`.
    """
    if isinstance(max_outputs, bool | float) or max_outputs < 1:
        raise ValueError(f"max_outputs must be a whole number, at least 1, got {max_outputs!r}")
    # A traced threshold has no value yet.
    if isinstance(iou_threshold, int | float | np.number) and not 0 <= iou_threshold <= 1:
        raise ValueError(f"iou_threshold must lie in [0, 1], got {iou_threshold!r}")
    require_boxes(2, boxes=boxes)
    count = np.shape(boxes)[0]
    for name, given in (("scores", scores), ("classes", classes), ("valid", valid)):
        if given is not None and np.shape(given) != (count,):
            raise ValueError(f"{name} must be a number for each of {count} boxes, got shape {np.shape(given)}")
    # An index has no gradient, and none can be asked of a loop of unknown length.
    boxes, scores = map(jax.lax.stop_gradient, at_least_float32_arrays(boxes, scores))
    threshold = jnp.asarray(iou_threshold, boxes.dtype)
    return _nms(boxes, scores, threshold, classes, valid, max_outputs=max_outputs, pixel_offset=pixel_offset)


@functools.partial(jax.jit, static_argnames=("max_outputs", "pixel_offset"))
def _nms(
    boxes: Array,
    scores: Array,
    iou_threshold: Array,
    classes: Any,
    valid: Any,
    *,
    max_outputs: int,
    pixel_offset: int | float,
) -> tuple[Array, Array]:
    """Return what `nms` does; compiled once for each shape, so that calls outside a program are fast too."""
    number = boxes.shape[0]
    tile = max(1, min(_TILE, number))
    tiles = max(1, -(-number // tile))
    eligible = ~jnp.isnan(scores) if valid is None else ~jnp.isnan(scores) & jnp.asarray(valid)
    one_class = jnp.zeros(number, jnp.int32) if classes is None else jnp.asarray(classes)
    _, _, order = jax.lax.sort((~eligible, -scores, jnp.arange(number, dtype=jnp.int32)), num_keys=2, is_stable=True)
    sorted_boxes, sorted_classes, index = (
        jnp.pad(array, [(0, tiles * tile - number), *[(0, 0)] * (array.ndim - 1)])
        for array in (boxes[order], one_class[order], order)
    )
    candidates = eligible.sum(dtype=jnp.int32)

    def falls(kept: tuple[Array, Array], others: tuple[Array, Array]) -> Array:
        """Return which of the others each kept box makes fall."""
        iou = overlap(corners(kept[0][:, None]), corners(others[0][None, :]), "iou", pixel_offset)
        return (iou > iou_threshold) & (kept[1][:, None] == others[1][None, :])

    def unfinished(state: tuple[Array, _Kept]) -> Array:
        start, kept = state
        return (start < candidates) & (kept.number < max_outputs)

    def decide(state: tuple[Array, _Kept]) -> tuple[Array, _Kept]:
        start, kept = state
        here = (
            jax.lax.dynamic_slice_in_dim(sorted_boxes, start, tile),
            jax.lax.dynamic_slice_in_dim(sorted_classes, start, tile),
        )
        used = jnp.arange(max_outputs, dtype=jnp.int32) < kept.number
        left = start + jnp.arange(tile, dtype=jnp.int32) < candidates
        left &= ~(falls((kept.boxes, kept.classes), here) & used[:, None]).any(0)
        stay = _greedy(left, jnp.triu(falls(here, here), 1))
        place = jnp.where(
            stay, kept.number + jnp.cumsum(stay, dtype=jnp.int32) - 1, max_outputs
        )  # max_outputs is outside: dropped
        new = (*here, jax.lax.dynamic_slice_in_dim(index, start, tile))
        boxes, classes, indices = (
            old.at[place].set(values, mode="drop") for old, values in zip(kept[:3], new, strict=True)
        )
        total = jnp.minimum(kept.number + stay.sum(dtype=jnp.int32), max_outputs)
        return start + tile, _Kept(boxes, classes, indices, total)

    nothing = _Kept(
        jnp.zeros((max_outputs, 4), boxes.dtype),
        jnp.zeros(max_outputs, one_class.dtype),
        jnp.zeros(max_outputs, jnp.int32),
        jnp.int32(0),
    )
    _, kept = jax.lax.while_loop(unfinished, decide, (jnp.int32(0), nothing))
    return kept.indices, jnp.arange(max_outputs, dtype=jnp.int32) < kept.number


def _greedy(left: Bool[Array, " t"], falls: Bool[Array, "t t"]) -> Bool[Array, " t"]:
    """Return who is kept of the candidates that are left, where `falls[j, i]`, j < i: j, if kept, makes i fall."""

    def again(state: tuple[Array, Array]) -> tuple[Array, Array]:
        stay, _ = state
        new = left & ~(falls & stay[:, None]).any(0)
        return new, (new != stay).any()

    return jax.lax.while_loop(lambda state: state[1], again, (left, jnp.bool_(True)))[0]
