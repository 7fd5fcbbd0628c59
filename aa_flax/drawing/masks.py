"""Masks of objects over photographs, and as pictures whose pixels are the objects' numbers."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Shaped, UInt8
from matplotlib.axes import Axes
from PIL import Image

from aa_flax.data.masks import RunLengths

_OPACITY = 0.45
Color = tuple[float, float, float]
"""Red, green and blue from 0 to 1."""


def masks_over(
    pixels: UInt8[np.ndarray, "h w 3"], masks: Sequence[Bool[np.ndarray, "h w"]], colors: Sequence[Color]
) -> UInt8[np.ndarray, "h w 3"]:
    """Return a photograph in which each mask is tinted in its colour, with an outline of it; the first lies above.

    Args:
        pixels: of the photograph.
        masks: which pixels are each object's.
        colors: of each.
    """
    picture = pixels.astype(np.float32)
    for mask, color in reversed([*zip(masks, colors, strict=True)]):
        ink = 255 * np.array(color, np.float32)
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        if not len(rows):
            continue
        part = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
        inside, here = mask[part], picture[part]
        here[inside] += _OPACITY * (ink - here[inside])
        here[inside & ~_inner(inside)] = ink
    return picture.round().astype(np.uint8)


def _inner(mask: Bool[np.ndarray, "h w"]) -> Bool[np.ndarray, "h w"]:
    """Return the pixels of a mask whose four neighbours all belong to it."""
    around = np.pad(mask, 1)
    return around[:-2, 1:-1] & around[2:, 1:-1] & around[1:-1, :-2] & around[1:-1, 2:]


def square(axes: Axes, mask: Shaped[np.ndarray, "s s"], box: Float[np.ndarray, "4"], color: Color) -> None:
    """Tint what a mask, given for the cells of its box, covers of a picture in axes.

    Args:
        axes: of a picture with its pixels' centres at whole numbers.
        mask: 0 where a cell is not the object's.
        box: x1, y1, x2, y2 in pixels.
        color: of the tint.
    """
    x1, y1, x2, y2 = box - 0.5
    tint = np.zeros((*mask.shape, 4))
    tint[..., :3], tint[..., 3] = color, _OPACITY * (mask != 0)
    limits = axes.get_xlim(), axes.get_ylim()
    axes.imshow(tint, extent=(x1, x2, y2, y1), interpolation="nearest", aspect=axes.get_aspect())
    axes.set(xlim=limits[0], ylim=limits[1])


def instance_map(masks: Sequence[RunLengths], size: tuple[int, int], colors: Sequence[Color]) -> Any:
    """Return a picture, of a palette up to 255 objects, whose pixels are the numbers of the objects there.

    Args:
        masks: of the objects, which are numbered from 1; where several lie the first is seen. 0 is none of them.
        size: (height, width) of the photograph.
        colors: of the palette, of each object.
    """
    numbers = np.zeros(size, np.uint8 if len(masks) < 256 else np.uint16)
    for number in range(len(masks), 0, -1):
        numbers[masks[number - 1].pixels()] = number
    picture = Image.fromarray(numbers)
    if numbers.dtype == np.uint8:
        picture.putpalette([0, 0, 0, *(round(255 * level) for color in colors for level in color)])
    return picture
