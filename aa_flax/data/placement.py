"""How a photograph lies on the canvas that a network gets, and coordinates in the one and in the other."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from jaxtyping import Float, Float32, Int64

Box = tuple[float, float, float, float]
"""(left, upper, right, lower) in pixels."""
Window = Callable[[int, int], Box]
"""A function from the height and width of an image to its crop window, the part that is wanted."""


@dataclass(frozen=True)
class Placement:
    """How a photograph lies on a canvas: a part of it, resized, in the upper left corner; what is left is padding.

    Attributes:
        window: (left, upper, right, lower) of the part of the photograph that is seen, in the photograph's pixels.
        size: (height, width) that this part is resized to, at most those of the canvas.
        canvas: (height, width) of the canvas.
        photo: (height, width) of the whole photograph.
    """

    window: Box
    size: tuple[int, int]
    canvas: tuple[int, int]
    photo: tuple[int, int]

    @property
    def is_as_it_was(self) -> bool:
        """Return whether all of the photograph is seen, at its own size."""
        return self.size == self.photo and self.window == (0, 0, self.photo[1], self.photo[0])

    def as_array(self) -> Float32[np.ndarray, "8"]:
        """Return the numbers that batches carry: window, size and photo, in this order."""
        return np.array([*self.window, *self.size, *self.photo], np.float32)


Framing = Callable[..., Any]
"""A function from the height and width of a photograph to its `Placement`, from the sides of a signal to its extent."""


@dataclass(frozen=True)
class Tries:
    """Several framings, of which the first is taken that puts good targets on the canvas; the last is always good.

    Attributes:
        framings: in order, at least one.
        good: whether the targets of a canvas are.
    """

    framings: Sequence[Framing]
    good: Callable[[Mapping[str, Any]], bool]

    def chosen(self, placed: Callable[[Framing], Mapping[str, Any]]) -> Framing:
        """Return the framing that is taken, where `placed` gives the targets of the canvas of each."""
        return next((each for each in self.framings[:-1] if self.good(placed(each))), self.framings[-1])


def resized(size: tuple[int, int], window: Window | None = None) -> Framing:
    """Return the framing that resizes the part `window`, or all, of a photograph to `size`, whatever its aspect."""

    def frame(height: int, width: int) -> Placement:
        part = window(height, width) if window else (0.0, 0.0, float(width), float(height))
        return Placement(part, size, size, (height, width))

    return frame


def scaled(
    canvas: tuple[int, int],
    factor: float = 1.0,
    corner: tuple[float, float] = (0.0, 0.0),
    sides: tuple[int, ...] = (),
    *,
    whole: bool = False,
) -> Framing:
    """Return the framing that scales a photograph, keeping its aspect, and cuts off what is larger than the canvas.

    Args:
        canvas: (height, width).
        factor: the scale, where 1 is the largest at which the whole photograph fits, or as `sides` says.
        corner: where what is seen begins, down and right, as fractions 0 to 1 of the pixels that are too many.
        sides: at scale 1 the photograph's shorter side has the first number of pixels, or fewer where its longer side
            would have more than the second; () for what just fits.
        whole: reduce what would be cut off until it fits.
    """

    def frame(height: int, width: int) -> Placement:
        fitting = min(canvas[0] / height, canvas[1] / width)
        scale = factor * fitting
        if sides:
            scale = factor * min(sides[0] / min(height, width), sides[1] / max(height, width))
        scale = min(scale, fitting) if whole else scale
        size = max(1, round(height * scale)), max(1, round(width * scale))
        seen = min(size[0], canvas[0]), min(size[1], canvas[1])
        upper, left = (int(part * (full - kept + 1)) for part, full, kept in zip(corner, size, seen, strict=True))
        upper, left = min(upper, size[0] - seen[0]), min(left, size[1] - seen[1])
        # Products before quotients, so that a whole side is exactly itself.
        columns, rows = (
            (start * side / full, (start + kept) * side / full)
            for start, kept, side, full in ((left, seen[1], width, size[1]), (upper, seen[0], height, size[0]))
        )
        return Placement((columns[0], rows[0], columns[1], rows[1]), seen, canvas, (height, width))

    return frame


def unpadded(framing: Framing) -> Framing:
    """Return the framing that ends the canvas where the photograph, or signal, ends, for a caller that pads itself."""

    def frame(*sides: int) -> Any:
        placement = framing(*sides)
        return replace(placement, canvas=placement.size)

    return frame


def boxes_on_canvas(boxes: Float[np.ndarray, "n 4"], placement: Float[np.ndarray, "8"]) -> Float[np.ndarray, "n 4"]:
    """Return boxes x1, y1, x2, y2 of a photograph in pixels of its canvas, in float64; they are not clipped.

    Args:
        boxes: in the photograph's pixels.
        placement: what `Placement.as_array` gave.
    """
    scale, origin = _scale_and_origin(placement)
    return (boxes - origin) * scale


def boxes_in_photo(boxes: Float[np.ndarray, "n 4"], placement: Float[np.ndarray, "8"]) -> Float[np.ndarray, "n 4"]:
    """Return boxes x1, y1, x2, y2 on a canvas in the photograph's pixels, in float64; they are not clipped.

    It is the inverse of `boxes_on_canvas`.
    """
    scale, origin = _scale_and_origin(placement)
    return boxes / scale + origin


def nearest_pixels(placement: Float[np.ndarray, "8"]) -> tuple[Int64[np.ndarray, " h"], Int64[np.ndarray, " w"]]:
    """Return the row of the photograph in which the centre of each row of what is seen lies, and so the columns.

    Args:
        placement: what `Placement.as_array` gave.
    """
    left, upper, right, lower, *sides = (float(number) for number in placement)
    height, width, photo_height, photo_width = map(int, sides)
    rows, columns = (
        np.clip(start + (np.arange(count) + 0.5) * (end - start) / count, 0, full - 1).astype(np.int64)
        for start, end, count, full in ((upper, lower, height, photo_height), (left, right, width, photo_width))
    )
    return rows, columns


def _scale_and_origin(placement: Float[np.ndarray, "8"]) -> tuple[np.ndarray, np.ndarray]:
    """Return canvas pixels per pixel of the photograph, and the window's corner, each as x, y, x, y."""
    left, upper, right, lower, height, width, _, _ = (float(number) for number in placement)
    across, down = width / (right - left), height / (lower - upper)
    return np.array([across, down, across, down]), np.array([left, upper, left, upper])
