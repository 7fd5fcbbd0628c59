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
        last = numpy.asarray(size)[..., None] - self.crop
        return numpy.maximum(numpy.minimum(_last(np.arange(self.most) * self.stride, last), last), 0)

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
        starts = self.starts(size, numpy)[..., None, :]  # [..., 1, most]
        pixels = _last(np.arange(self.canvas), starts).swapaxes(-1, -2)  # [..., canvas, 1]
        valid = _last(np.arange(self.most), starts) < numpy.asarray(self.count(size))[..., None, None]
        inside = valid & (starts <= pixels) & (pixels < starts + self.crop)  # [..., canvas, most]
        share = inside / numpy.maximum(inside.sum(-1, keepdims=True), 1)
        return share[..., None] * taps((pixels - starts + 0.5) * (places / self.crop) - 0.5, places, numpy)


def taps(positions: Any, count: int, numpy: Any = np) -> Float[Any, "... count"]:
    """Return the weights of `count` numbers in the linear interpolation at each position, [..., count].

    Positions are counted from the centre of the first number; those before it have its value, those after the last
    number that one's.
    """
    position = numpy.clip(positions, 0, count - 1)[..., None]
    return numpy.maximum(1 - numpy.abs(position - _last(np.arange(count), position)), 0)


def _last(values: np.ndarray, like: Any) -> np.ndarray:
    """Return values [n] as the last axis of an array with as many axes as another one."""
    return values.reshape((1,) * (like.ndim - 1) + values.shape)
