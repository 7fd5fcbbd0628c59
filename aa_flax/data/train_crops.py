"""The random part of each image that training sees, by the kinds of crops that `train_batches` has."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np

from aa_flax.data.crops import pad_crop, resized_window
from aa_flax.data.label_maps import is_mixed
from aa_flax.data.placement import Box, Tries, resized, scaled, unpadded
from aa_flax.data.signals import Whole
from aa_flax.data.source import Source
from aa_flax.data.train_sizes import Size

Crop = Literal["none", "pad", "resized", "scaled"]
Cropped = Callable[[int, np.random.Generator], dict[str, Any]]
"""A function from an index and a random generator to the example of that index, cropped."""
TRIES = 10
"""Crops that are tried after the first one, where one class has too much of it."""


@dataclass(frozen=True)
class TrainCrops:
    """What of each image is seen; the fields are arguments of `train_batches`.

    Attributes:
        with_padding: whether crops are padded that are smaller than the images of a batch; of crop "scaled".

    Raises:
        ValueError: a field is outside what `train_batches` lists.
    """

    crop: str
    padding: int
    fill: tuple[int, ...] | None
    scale_range: tuple[float, ...]
    scale_sides: tuple[int, ...]
    most_of_one_class: float
    with_padding: bool

    def __post_init__(self) -> None:
        sides, most = self.scale_sides, self.most_of_one_class
        if self.crop not in get_args(Crop):
            raise ValueError(f"crop is {self.crop!r}, expected one of {', '.join(map(repr, get_args(Crop)))}")
        if self.crop != "scaled":
            if sides or most < 1:
                raise ValueError(f"scale_sides and most_of_one_class go with crop 'scaled', got crop {self.crop!r}")
            return
        if len(self.scale_range) != 2 or not 0 < self.scale_range[0] <= self.scale_range[1] < float("inf"):
            raise ValueError(
                f"scale_range is {self.scale_range}, expected the least and the largest factor, finite and above 0"
            )
        if sides and not (len(sides) == 2 and 0 < sides[0] <= sides[1]):
            raise ValueError(f"scale_sides is {sides}, expected the shorter side and the most of the longer one")
        if not 0 < most <= 1:
            raise ValueError(f"most_of_one_class is {most}, expected above 0 and at most 1")

    def of(self, source: Source, size: Size) -> Cropped:
        """Return the function that crops examples of a source for batches of images of a size.

        Raises:
            ValueError: the crop, or what it is to heed, does not go with the source or the size.
        """
        if source.dtype != np.uint8:
            if self.crop != "none":
                raise ValueError(f"crop is {self.crop!r}, expected 'none' for signals")
            return lambda index, rng: source.part(index, Whole(size).framing)
        if self.crop == "none":
            return lambda index, rng: source.part(index, resized(size))
        if self.crop == "resized":
            return lambda index, rng: source.part(index, resized(size, _ResizedWindow(rng)))
        return self._scaled(source, size) if self.crop == "scaled" else self._padded(source, size)

    def _scaled(self, source: Source, size: Size) -> Cropped:
        most, (least, largest) = self.most_of_one_class, self.scale_range
        if most < 1 and len(source.maps) != 1:
            raise ValueError(f"most_of_one_class is {most}, and the images of {source.name} have no label map")

        def mixed(targets: Mapping[str, Any]) -> bool:
            return is_mixed(targets[next(iter(source.maps))], most)

        def cropped(index: int, rng: np.random.Generator) -> dict[str, Any]:
            # Drawn here and not by the image, so that what is drawn does not depend on which image is read.
            factor = rng.uniform(least, largest)
            corners = [(rng.random(), rng.random()) for _ in range(1 + TRIES if most < 1 else 1)]
            framings = [scaled(size, factor, corner, self.scale_sides) for corner in corners]
            framings = framings if self.with_padding else [*map(unpadded, framings)]
            return source.part(index, Tries(framings, mixed) if most < 1 else framings[0])

        return cropped

    def _padded(self, source: Source, size: Size) -> Cropped:
        if source.placed is not None:
            raise ValueError("crop is 'pad', expected 'none', 'resized' or 'scaled' for targets that lie in the image")
        if not 0 < self.padding <= min(size):
            raise ValueError(f"crop_padding is {self.padding}, expected 1 to {min(size)}, the image's shorter side")
        channels = source.image_shape[-1]
        if self.fill is None or len(self.fill) != channels or not all(0 <= value <= 255 for value in self.fill):
            raise ValueError(f"fill is {self.fill}, expected {channels} values of 0 to 255 when crop is 'pad'")
        pixel = np.asarray(self.fill, np.uint8)

        def padded(index: int, rng: np.random.Generator) -> dict[str, Any]:
            example = source.part(index, resized(size))
            return {**example, "image": pad_crop(example["image"], self.padding, pixel, rng)}

        return padded


class _ResizedWindow:
    """The crop window of `crop="resized"`.

    Every call starts from the same random state, so that the crop of an image that replaces a damaged one does not
    depend on earlier calls.
    """

    def __init__(self, rng: np.random.Generator):
        self._rng, self._state = rng, rng.bit_generator.state

    def __call__(self, height: int, width: int) -> Box:
        self._rng.bit_generator.state = self._state
        return resized_window(height, width, self._rng)
