"""What a network sees of a photograph of any size when nothing is augmented."""

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from aa_flax.data.crops import center_window
from aa_flax.data.images import Interpolation, framed
from aa_flax.data.placement import Framing, Placement, resized, scaled

Resize = Literal["squash", "center_crop", "fit"]


@dataclass(frozen=True)
class View:
    """The one way in which evaluation, `predict` and the report's pictures look at an image.

    Attributes:
        size: (height, width) of the images that the network takes.
        resize: "squash" resizes the whole image to `size`, whatever its aspect, and leaves an image of that size as it
            is; "center_crop" resizes a centred part that has the aspect of `size`; "fit" scales the whole image until
            it fits, keeping its aspect, into the upper left corner, and pads.
        crop_fraction: for "center_crop", the sides of that part as a fraction of those of the largest such part.
        interpolation: the filter of Pillow, with antialiasing where it shrinks.
        sides: for "fit", pixels of the shorter side, and the most of the longer one, that an image is scaled to if
            `size` has room for that; () for what just fits.
    """

    size: tuple[int, int]
    resize: Resize = "squash"
    crop_fraction: float = 0.875  # 224 / 256, as ImageNet networks are evaluated
    interpolation: Interpolation = "bilinear"
    sides: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if len(self.size) != 2 or min(self.size) < 1:
            raise ValueError(f"size is {self.size}, expected (height, width)")
        if self.resize not in get_args(Resize):
            raise ValueError(f"resize is {self.resize!r}, expected one of {get_args(Resize)}")
        if not 0 < self.crop_fraction <= 1:
            raise ValueError(f"crop_fraction is {self.crop_fraction}, expected above 0 and at most 1")
        if self.interpolation not in get_args(Interpolation):
            raise ValueError(f"interpolation is {self.interpolation!r}, expected one of {get_args(Interpolation)}")

    @property
    def framing(self) -> Framing:
        """Return the function from an image's height and width to its placement on the canvas."""
        if self.resize == "fit":
            return scaled(self.size, sides=self.sides, whole=True)
        if self.resize == "squash":
            return resized(self.size)
        return resized(self.size, lambda height, width: center_window(height, width, self.size, self.crop_fraction))

    def of(self, picture: Image.Image) -> UInt8[np.ndarray, "h w c"]:
        """Return the pixels that the network sees of a picture in grey or RGB; padding is black."""
        return self.placed(picture)[0]

    def placed(self, picture: Image.Image) -> tuple[UInt8[np.ndarray, "h w c"], Placement]:
        """Return the pixels that the network sees of a picture in grey or RGB, and their placement."""
        return framed(picture, self.framing, self.interpolation)
