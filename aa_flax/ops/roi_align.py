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
from aa_flax.ops.roi_choice import choose_forms
from aa_flax.ops.roi_gather import read, spread
from aa_flax.ops.roi_product import multiply, multiply_back
from aa_flax.ops.roi_taps import Reads, of_level, taps

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
    """Return the means of a map over oh×ow equal bins of each box, by bilinear samples (Mask R-CNN, He et al., 2017).

    Values between locations are bilinear. A sample more than one location outside the map counts as 0, and any other
    one outside takes the nearest location's value, as in torchvision and detectron2. A box without area has the value
    of its point (with `sampling_ratio=0` and `aligned` it has no sample, and 0); one with a NaN has NaN.

    With several maps, the levels of a feature pyramid, each box reads one: that of stride 2^level, level =
    floor(canonical_level + log2(sqrt(area) / canonical_size) + 1e-6), or the first or last (Feature Pyramid Networks,
    Lin et al., 2017, eq. 1).

    Computed in at least float32; the result has the type of the maps. Gradients flow to the maps and not to the boxes,
    once and in reverse mode: `jax.jvp` raises TypeError. Forms differ by rounding only, but for a NaN or an infinity in
    a map: by "product" all boxes read it.

    Args:
        maps: one, or a list; equal in batch, channels and type.
        boxes: in pixels of the network's input.
        output_size: oh and ow, or one number for both.
        strides: the pixels from one location to the next, of each map; in a list each is twice the one before.
        sampling_ratio: a bin is the mean of so many samples along each side (torchvision's detectors: 2); 0 for
            ceil(side of the box / number of bins), in locations (detectron2, MMDetection). Shapes must be static under
            `jax.jit`, so there are at most `most_samples` of the latter; a bin larger than that has so many, further
            apart, which differs from PyTorch's libraries: of 7 bins on a pyramid, in boxes four times as long as wide.
        aligned: whether location 0 lies half a location from the map's edge (detectron2, MMDetection); else it lies at
            the edge, and no side is less than 1 location (torchvision's detectors).
        canonical_size: the side in pixels of the square on `canonical_level`.
        implementation: "gather" reads the locations, "product" multiplies matrices; see `roi_choice.choose_forms`.

    Raises:
        TypeError: maps that are not floating-point.
        ValueError: shapes or strides that do not go together, or a number or name that cannot be.
    """
    maps, strides = _checked(maps, strides, boxes)
    size = _size(output_size)
    for name, number, least in (("sampling_ratio", sampling_ratio, 0), ("most_samples", most_samples, 1)):
        if not _is_whole(number) or number < least:
            raise ValueError(f"{name} must be a whole number of at least {least}, got {number!r}")
    if not canonical_size > 0:
        raise ValueError(f"canonical_size must be above 0, got {canonical_size!r}")
    sides = [(each.shape[1], each.shape[2]) for each in maps]
    forms = choose_forms(implementation, sides, size, sampling_ratio, most_samples)
    levels = (tuple(strides), canonical_size, canonical_level)
    samples = dict(sampling_ratio=sampling_ratio, most_samples=most_samples, aligned=aligned)
    return _roi_align(maps, jnp.asarray(boxes), size, forms, levels, tuple(samples.items()))


@functools.partial(jax.jit, static_argnums=(2, 3, 4, 5))
def _roi_align(maps: list[Array], boxes: Array, size: Any, forms: Any, levels: Any, samples: Any) -> Array:
    """Return what `roi_align` does; compiled once for each shape, so that calls outside a program are fast too."""
    (boxes,) = map(jax.lax.stop_gradient, at_least_float32_arrays(boxes))
    level = _levels(boxes, *levels)
    scale = of_level([1 / stride for stride in levels[0]], level, boxes.dtype)
    rows, columns = (
        taps(
            boxes[..., axis] * scale,
            boxes[..., axis + 2] * scale,
            of_level([each.shape[2 - axis] for each in maps], level, jnp.int32),
            bins=size[1 - axis],
            **dict(samples),
        )
        for axis in (1, 0)
    )
    adaptive = not dict(samples)["sampling_ratio"]
    return _bins((*forms, adaptive), maps, Reads(level, rows, columns))


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _bins(settings: tuple[str, str, bool], maps: list[Array], reads: Reads) -> Array:
    form, _, adaptive = settings
    return multiply(maps, reads) if form == "product" else read(maps, reads, adaptive=adaptive)


def _forward(settings: Any, maps: list[Array], reads: Reads) -> tuple[Array, Any]:
    return _bins(settings, maps, reads), ([jnp.zeros((0, *each.shape[1:]), each.dtype) for each in maps], reads)


def _backward(settings: Any, kept: Any, cotangent: Array) -> tuple[list[Array], None]:
    _, form, adaptive = settings
    if form == "product":
        return multiply_back(cotangent, *kept), None
    return spread(cotangent, *kept, adaptive=adaptive), None


_bins.defvjp(_forward, _backward)


def _levels(
    boxes: Float[Array, "b n 4"], strides: Sequence[int | float], canonical_size: int | float, canonical_level: int
) -> Int32[Array, "b n"]:
    """Return the number of each box's map: how many sides it reaches of those at which the next map begins."""
    sides = jnp.maximum(boxes[..., 2:] - boxes[..., :2], 0)
    area = sides[..., 0] * sides[..., 1]
    level = jnp.zeros_like(area, jnp.int32)
    for stride in strides[1:]:
        least = canonical_size * 2 ** (math.log2(stride) - canonical_level - _ROUNDING)
        level += (area >= least**2).astype(jnp.int32)
    return level


def _checked(maps: Any, strides: Any, boxes: Any) -> tuple[list[Array], list[int | float]]:
    maps = [jnp.asarray(each) for each in ([maps] if hasattr(maps, "shape") else maps)]
    strides = [strides] if isinstance(strides, int | float | np.number) else [*strides]
    shapes = [each.shape for each in maps]
    if not maps or any(len(shape) != 4 or 0 in shape[1:3] for shape in shapes):
        raise ValueError(f"maps must be one or more of the shape [b, h, w, c], got {shapes}")
    if len({(shape[0], shape[3], each.dtype) for shape, each in zip(shapes, maps, strict=True)}) > 1:
        kinds = [f"{each.dtype}{[*each.shape]}" for each in maps]
        raise ValueError(f"maps must be equal in batch, channels and dtype, got {', '.join(kinds)}")
    if not jnp.issubdtype(maps[0].dtype, jnp.floating):
        raise TypeError(f"maps must be of a floating-point dtype, got {maps[0].dtype}")
    if len(strides) != len(maps) or not all(stride > 0 for stride in strides):
        raise ValueError(f"strides must be a number above 0 for each of {len(maps)} maps, got {strides}")
    if any(after != 2 * before for before, after in itertools.pairwise(strides)):
        raise ValueError(f"each of several strides must be twice the one before, got {strides}")
    require_boxes(boxes=boxes)
    if np.ndim(boxes) != 3 or np.shape(boxes)[0] != shapes[0][0]:
        raise ValueError(f"boxes must have the shape [{shapes[0][0]}, n, 4], got {np.shape(boxes)}")
    return maps, strides


def _size(output_size: Any) -> tuple[int, int]:
    size = (output_size,) * 2 if _is_whole(output_size) else tuple(output_size)
    if len(size) != 2 or not all(_is_whole(side) and side >= 1 for side in size):
        raise ValueError(f"output_size must be one or two whole numbers of at least 1, got {output_size!r}")
    return size


def _is_whole(number: Any) -> bool:
    return isinstance(number, int | np.integer) and not isinstance(number, bool)
