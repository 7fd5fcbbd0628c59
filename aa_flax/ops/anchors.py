"""Anchors: the boxes that a dense detector moves onto objects, as constants of NumPy.

`AnchorOptions` has what implementations of RetinaNet differ in; `ANCHORS` has theirs by name.
"""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Literal

import numpy as np
from jaxtyping import Float


@dataclasses.dataclass(frozen=True)
class AnchorOptions:
    """Which boxes stand at each place of each level; the defaults are the paper's, by tensorflow/tpu's code.

    Level l has the stride 2**l. The side of its anchor of scale k is base_size 2**l 2**(k / num_scales), and each scale
    comes in the shapes of `pairs` or `ratios`.

    Attributes:
        base_size: the side of the first scale in strides of its level.
        num_scales: scales in an octave; 3 in RetinaNet's paper, 2 in the networks of Bello et al. (33.4 M parameters).
        pairs: factors of width and height; those of tensorflow/tpu give 0.98 of the square's area. None for `ratios`.
        ratios: height / width at the square's area, in the place of `pairs`.
        centre: where in its cell an anchor's centre lies, in strides: 0.5 the middle, 0 the upper left corner.
        stride: the distance of centres: "level", 2**l, or "image", side of the image // side of the map, which is
            another number where sides are no multiples of the stride.
        truncate_sizes: whether sides are cut to whole pixels before shapes are made of them.
        round_corners: whether corners are rounded to whole pixels from the centre, halves to even.
        order: which of scale and shape varies slowest among the anchors of a place.
    """

    base_size: int | float = 4.0
    num_scales: int = 2
    pairs: tuple[tuple[int | float, int | float], ...] | None = ((1.0, 1.0), (1.4, 0.7), (0.7, 1.4))
    ratios: tuple[int | float, ...] | None = None
    centre: int | float = 0.5
    stride: Literal["level", "image"] = "level"
    truncate_sizes: bool = False
    round_corners: bool = False
    order: Literal["scale", "shape"] = "scale"

    def __post_init__(self) -> None:
        if not self.base_size > 0:
            raise ValueError(f"base_size must be above 0, got {self.base_size!r}")
        if self.num_scales < 1:
            raise ValueError(f"num_scales must be at least 1, got {self.num_scales!r}")
        if (self.pairs is None) == (self.ratios is None):
            raise ValueError(
                f"give one of pairs and ratios, and None for the other, got {self.pairs!r}, {self.ratios!r}"
            )
        given = self.ratios if self.pairs is None else [factor for pair in self.pairs for factor in pair]
        if not given or not all(number > 0 for number in given):
            raise ValueError(f"pairs or ratios must be numbers above 0, at least one shape, got {given!r}")
        for name, allowed in (("stride", ("level", "image")), ("order", ("scale", "shape"))):
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name} must be one of {allowed}, got {getattr(self, name)!r}")

    @property
    def per_place(self) -> int:
        """The number of anchors at a place."""
        return self.num_scales * len(self.factors())

    def factors(self) -> np.ndarray:
        """Return the factors of width and height of each shape: [shapes, 2]."""
        if self.pairs is not None:
            return np.asarray(self.pairs, np.float64)
        heights = np.sqrt(np.asarray(self.ratios, np.float64))
        return np.stack([1 / heights, heights], -1)

    def at_origin(self, level: int) -> Float[np.ndarray, "anchors 4"]:
        """Return the anchors of a place of this level around the centre (0, 0), in float64."""
        sizes = self.base_size * 2**level * 2 ** (np.arange(self.num_scales) / self.num_scales)
        if self.truncate_sizes:
            sizes = np.trunc(sizes)
        by_scale = sizes[:, None, None] * self.factors()[None]
        sides = (by_scale if self.order == "scale" else by_scale.swapaxes(0, 1)).reshape(-1, 2)
        corners = np.concatenate([-sides / 2, sides / 2], -1)
        return np.round(corners) if self.round_corners else corners


_OF_PYTORCH = AnchorOptions(num_scales=3, pairs=None, ratios=(0.5, 1.0, 2.0), centre=0.0)
ANCHORS = {
    "tpu": AnchorOptions(),
    "torchvision": dataclasses.replace(
        _OF_PYTORCH, stride="image", truncate_sizes=True, round_corners=True, order="shape"
    ),
    "detectron2": _OF_PYTORCH,
    "mmdetection": dataclasses.replace(_OF_PYTORCH, order="shape"),
}
"""RetinaNet's anchors by implementation. tensorflow/tpu's today are `replace(ANCHORS["tpu"], num_scales=3)`; proposal
networks take one scale of base_size 8 on levels 2 to 6."""


def anchor_boxes(
    map_sizes: Sequence[Sequence[int]],
    image_size: Sequence[int],
    options: AnchorOptions = ANCHORS["tpu"],
    *,
    first_level: int = 3,
) -> Float[np.ndarray, "anchors 4"]:
    """Return all anchors of an image as (x1, y1, x2, y2) in pixels, float32, in a constant that cannot be written.

    The order is level, row, column, anchor of the place. Anchors that reach over the border stay as they are.

    Args:
        map_sizes: height and width of the map of each level.
        image_size: height and width of the network's input.
        first_level: the level of the first map; its stride is 2**first_level.
    """
    sizes = tuple((int(height), int(width)) for height, width in map_sizes)
    height, width = (int(side) for side in image_size)
    if not sizes or min(min(size) for size in sizes) < 1:
        raise ValueError(f"map_sizes must be heights and widths of at least 1, got {map_sizes!r}")
    return _anchor_boxes(sizes, (height, width), options, first_level)


@functools.lru_cache(maxsize=32)
def _anchor_boxes(
    map_sizes: tuple[tuple[int, int], ...], image_size: tuple[int, int], options: AnchorOptions, first_level: int
) -> np.ndarray:
    levels = []
    for level, map_size in enumerate(map_sizes, first_level):
        strides = [
            2**level if options.stride == "level" else side // length
            for side, length in zip(image_size, map_size, strict=True)
        ]
        y, x = (stride * (np.arange(length) + options.centre) for stride, length in zip(strides, map_size, strict=True))
        centres = np.stack(np.broadcast_arrays(x[None, :], y[:, None]), -1)[:, :, None]
        corners = np.concatenate([centres, centres], -1) + options.at_origin(level)[None, None]
        levels.append(corners.reshape(-1, 4))
    anchors = np.concatenate(levels).astype(np.float32)
    anchors.flags.writeable = False
    return anchors
