"""Windows that slide over a canvas along one axis, and what the logits in them give at each of its pixels."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float


@dataclass(frozen=True)
class Windows:
    """Windows of `crop` pixels along one axis, `stride` apart, of which the last ones are shifted back to the border.

    Of an image of `size` pixels, window i of max(ceil((size - crop) / stride), 0) + 1 begins at
    max(min(i · stride, size - crop), 0). A window that covers the whole canvas is what a network sees that does not
    slide.

    Attributes:
        canvas: pixels along the axis that an image has at most.
        crop, stride: in pixels.
    """

    canvas: int
    crop: int
    stride: int

    def __post_init__(self) -> None:
        if not 0 < self.stride <= self.crop <= self.canvas:
            raise ValueError(
                f"stride, crop and canvas are {self.stride}, {self.crop} and {self.canvas}, expected 0 < stride <= "
                "crop <= canvas"
            )

    @property
    def most(self) -> int:
        """The number of windows of an image that fills the canvas."""
        return int(self.count(self.canvas))

    def count(self, size: Any) -> Any:
        """Return how many windows an image of `size` pixels, a whole number or an array of such, has."""
        return -((self.crop - size) // self.stride * (size > self.crop)) + 1

    def starts(self, size: Any, numpy: Any = np) -> Any:
        """Return where each of `most` windows begins, [..., most] for `size` [...]; those beyond `count` repeat it."""
        offsets = np.arange(self.most) * self.stride
        return numpy.maximum(numpy.minimum(offsets, numpy.asarray(size)[..., None] - self.crop), 0)

    def matrix(self, size: Any, places: int, numpy: Any = np) -> Float[Any, "... canvas most places"]:
        """Return the weights with which the numbers of all windows are added to those of the canvas's pixels.

        The `places` of each window are resized to `crop` pixels, bilinearly with half-pixel centres, as
        `ops.resize_bilinear` does. Where windows overlap, their mean is taken. Rows of pixels that no window covers,
        beyond `size`, are 0.

        Args:
            size: pixels of the image along the axis, a whole number or an array [...].
            places: numbers along the axis that the network gives for a window.
            numpy: the module that computes, `numpy` or `jax.numpy`.
        """
        pixels = np.arange(self.canvas)
        starts = self.starts(size, numpy)[..., None, :]  # [..., 1, most]
        valid = np.arange(self.most) < numpy.asarray(self.count(size))[..., None, None]
        inside = valid & (starts <= pixels[:, None]) & (pixels[:, None] < starts + self.crop)  # [..., canvas, most]
        share = inside / numpy.maximum(inside.sum(-1, keepdims=True), 1)
        within = pixels[:, None] - starts  # [..., canvas, most]
        return share[..., None] * taps((within + 0.5) * (places / self.crop) - 0.5, places, numpy)


def taps(positions: Any, count: int, numpy: Any = np) -> Float[Any, "... count"]:
    """Return the weights of `count` numbers in the linear interpolation at each position, [..., count].

    Positions are counted from the centre of the first number; those before it have its value, those after the last
    number that one's.
    """
    position = numpy.clip(positions, 0, count - 1)[..., None]
    return numpy.maximum(1 - numpy.abs(position - np.arange(count)), 0)
