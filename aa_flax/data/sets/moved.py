"""Boxes and masks of a photograph that is turned or scaled."""

import json
from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Bool

from aa_flax.data.masks import encoded, from_values
from aa_flax.json_values import to_json

Point = tuple[float, float]
Corners = tuple[float, float, float, float]


def turned_points(orientation: int, size: tuple[int, int]) -> Callable[[float, float], Point]:
    """Return the function that takes a point x, y of an image as its file has it to where EXIF's orientation turns it.

    Args:
        orientation: EXIF's number, 1 to 8 (Exif 2.32, tag 274).
        size: (height, width) before the turn.
    """
    height, width = size
    return {
        1: lambda x, y: (x, y),
        2: lambda x, y: (width - x, y),
        3: lambda x, y: (width - x, height - y),
        4: lambda x, y: (x, height - y),
        5: lambda x, y: (y, x),
        6: lambda x, y: (height - y, x),
        7: lambda x, y: (height - y, width - x),
        8: lambda x, y: (y, width - x),
    }[orientation]


def moved_box(
    box: Corners, scale: tuple[float, float], points: Callable[[float, float], Point] | None = None
) -> Corners:
    """Return a box x1, y1, x2, y2 scaled by (in x, in y) and, if `points` is given, turned by it."""
    x1, y1, x2, y2 = (value * factor for value, factor in zip(box, scale * 2, strict=True))
    if points is None:
        return x1, y1, x2, y2
    (ax, ay), (bx, by) = points(x1, y1), points(x2, y2)
    return min(ax, bx), min(ay, by), max(ax, bx), max(ay, by)


def moved_segmentation(
    segmentation: str, scale: tuple[float, float], points: Callable[[float, float], Point] | None = None
) -> str:
    """Return a segmentation, which is JSON, scaled and turned as by `moved_box`.

    Polygons are moved point by point. Of run lengths each new pixel has the old one in which its centre lies.
    """
    if not segmentation or (points is None and scale == (1, 1)):
        return segmentation
    value = json.loads(segmentation)
    if isinstance(value, list):
        return to_json([_moved(each, scale, points) for each in value])
    pixels = _resampled(from_values(value).pixels(), scale)
    return to_json(encoded(pixels if points is None else _turned(pixels, points)).values())


def _resampled(pixels: Bool[np.ndarray, "_h _w"], scale: tuple[float, float]) -> Bool[np.ndarray, "_new_h _new_w"]:
    """Return pixels scaled by (in x, in y), which give whole sides."""
    rows, columns = (
        ((np.arange(round(side * factor)) + 0.5) / factor).astype(int)
        for side, factor in zip(pixels.shape, scale[::-1], strict=True)
    )
    return pixels[np.ix_(rows, columns)]


def _turned(
    pixels: Bool[np.ndarray, "_h _w"], points: Callable[[float, float], Point]
) -> Bool[np.ndarray, "_new_h _new_w"]:
    """Return pixels turned as `points`, of `turned_points`, turns their corners."""
    corner, right, down = (np.array(points(x, y)) for x, y in ((0, 0), (1, 0), (0, 1)))
    across, along = right - corner, down - corner  # where the old columns and rows lead
    if across[0] == 0:
        pixels, across, along = pixels.T, along, across
    return pixels[:: -1 if along[1] < 0 else 1, :: -1 if across[0] < 0 else 1]


def _moved(
    polygon: Sequence[int | float], scale: tuple[float, float], points: Callable[[float, float], Point] | None
) -> list[float]:
    moved: list[float] = []
    for x, y in zip(polygon[::2], polygon[1::2], strict=True):
        place = float(x * scale[0]), float(y * scale[1])
        moved += points(*place) if points else place
    return moved
