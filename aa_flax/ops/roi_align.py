"""RoIAlign: a grid of features of fixed size for each box, from one map or from the levels of a pyramid."""

import functools
import itertools
import math
from collections.abc import Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float, Int32

from aa_flax.ops.boxes import at_least_float32_arrays, require_boxes
from aa_flax.ops.roi_gather import gathered
from aa_flax.ops.roi_product import multiplied
from aa_flax.ops.roi_taps import Taps, taps

IMPLEMENTATIONS = ("auto", "gather", "product")
_ROUNDING = 1e-6
"""What the logarithm of a side is raised by before it is rounded down to a level, as in torchvision."""


def roi_align(
    maps: Float[Array | np.ndarray, "b h w c"] | Sequence[Float[Array | np.ndarray, "b _h _w c"]],
    boxes: Float[Array | np.ndarray, "b n 4"],
    *,
    output_size: int | tuple[int, int],
    strides: int | float | Sequence[int | float],
    sampling_ratio: int = 2,
    aligned: bool = True,
    most_samples: int = 8,
    canonical_size: int | float = 224,
    canonical_level: int = 4,
    implementation: Literal["auto", "gather", "product"] = "auto",
) -> Float[Array, "b n oh ow c"]:
    """Return the mean of the map in each of oh×ow equal bins of each box, by bilinear samples (He et al., 2017)."""
    maps, strides = _lists(maps, strides)
    require_boxes(3, boxes=boxes)
    (boxes,) = map(jax.lax.stop_gradient, at_least_float32_arrays(boxes))
    size = (output_size, output_size) if isinstance(output_size, int) else tuple(output_size)
    level = _levels(boxes, strides, canonical_size, canonical_level)
    scale = _of_level([1 / stride for stride in strides], level, boxes.dtype)
    heights, widths = ([each.shape[axis] for each in maps] for axis in (1, 2))
    x1, y1, x2, y2 = (boxes[..., side] * scale for side in range(4))
    settings = dict(sampling_ratio=sampling_ratio, most_samples=most_samples, aligned=aligned)
    rows = taps(y1, y2, _of_level(heights, level, jnp.int32), bins=size[0], **settings)
    columns = taps(x1, x2, _of_level(widths, level, jnp.int32), bins=size[1], **settings)
    if implementation == "product":
        parts = [multiplied(each, _of_these(rows, level == number), columns) for number, each in enumerate(maps)]
        return functools.reduce(jnp.add, parts).astype(maps[0].dtype)
    firsts = [0, *itertools.accumulate(h * w for h, w in zip(heights[:-1], widths[:-1], strict=True))]
    flat = [each.reshape(each.shape[0], -1, each.shape[-1]) for each in maps]
    places = flat[0] if len(flat) == 1 else jnp.concatenate(flat, 1)
    first, width = (_of_level(numbers, level, jnp.int32) for numbers in (firsts, widths))
    return gathered(places, first, width, rows, columns, adaptive=not sampling_ratio)


def _lists(maps: Any, strides: Any) -> tuple[list[Array], list[float]]:
    if hasattr(maps, "shape"):
        maps = [maps]
    strides = [strides] if isinstance(strides, int | float) else [*strides]
    if len(maps) != len(strides):
        raise ValueError(f"strides must be a number for each of {len(maps)} maps, got {strides!r}")
    return [jnp.asarray(each) for each in maps], strides


def _levels(
    boxes: Float[Array, "b n 4"], strides: Sequence[int | float], canonical_size: int | float, canonical_level: int
) -> Int32[Array, "b n"]:
    """Return the number of the map that each box is on: how many sides it reaches of those at which the next begins."""
    sides = jnp.maximum(boxes[..., 2:] - boxes[..., :2], 0)
    area = sides[..., 0] * sides[..., 1]
    level = jnp.zeros(area.shape, jnp.int32)
    for stride in strides[1:]:
        least = canonical_size * 2 ** (math.log2(stride) - canonical_level - _ROUNDING)
        level += (area >= least**2).astype(jnp.int32)
    return level


def _of_level(numbers: Sequence[int | float], level: Array, dtype: Any) -> Array:
    """Return for each box the number of its map."""
    chosen = jnp.full_like(level, numbers[0], dtype=dtype)
    for index, number in enumerate(numbers[1:], 1):
        chosen = jnp.where(level == index, jnp.asarray(number, dtype), chosen)
    return chosen


def _of_these(rows: Taps, these: Array) -> Taps:
    """Return taps that weigh nothing for other boxes than these."""
    return rows._replace(weight=jnp.where(these[:, None, None, :, None], rows.weight, 0))
