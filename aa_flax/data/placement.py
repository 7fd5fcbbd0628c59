"""How a photograph lies on the canvas that a network gets, and coordinates in the one and in the other."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float32

from aa_flax.data.images import Box

NUMBERS = 8
"""How many numbers `Placement.as_array` has."""


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

    def as_array(self) -> Float32[np.ndarray, "8"]:
        """Return the numbers that batches carry: window, size and photo, in this order."""
        return np.array([*self.window, *self.size, *self.photo], np.float32)


Framing = Callable[[int, int], Placement]
"""A function from the height and width of a photograph to its placement."""


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


def _scale_and_origin(placement: Float[np.ndarray, "8"]) -> tuple[np.ndarray, np.ndarray]:
    """Return canvas pixels per pixel of the photograph, and the window's corner, each as x, y, x, y."""
    left, upper, right, lower, height, width, _, _ = np.asarray(placement, np.float64)
    scale = np.array([width / (right - left), height / (lower - upper)])
    return np.tile(scale, 2), np.tile([left, upper], 2)
