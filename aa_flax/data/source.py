"""Random access to the examples of a split: what every source gives."""

import abc
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from types import MappingProxyType
from typing import Any

import jax
import numpy as np

from aa_flax.alive import reporting
from aa_flax.data.images import Interpolation, framed_pixels
from aa_flax.data.placement import Framing, Tries

CHUNK = 256
"""Records that one thread reads and decodes at a time when all are read."""

Placed = Callable[[dict[str, Any], np.ndarray], dict[str, Any]]
"""A function from the targets of a photograph, and `Placement.as_array`, to those of its canvas."""


class Source(abc.ABC):
    """Random access to the examples of a split, of images or of signals.

    `source[i]` is {"image": uint8 [h, w, c], "index": i} and the targets by name.

    Attributes:
        name: the names of the data set and the split, for messages.
        image_shape: (h, w, c); h and w are None where images differ in size; of signals (*space, c).
        dtype: of "image": uint8 of images, float32 of signals.
        framed: puts an image or a signal where a framing says, see `framed_pixels`.
        target_shapes: shape and dtype of each target of an example.
        placed: moves targets with their image, see `Targets`; None for targets that stay as they are.
        read_shapes: shape and dtype of each target as it is read, before it is placed; None for `target_shapes`.
        maps: the targets that have a value for each pixel, by name, with the value of their padding.
        annotations: what scores are taken against, see `aa_flax.data.truths.Annotations` and
            `aa_flax.data.label_maps.LabelMaps`; its `require_truths` raises DataError where predictions could have no
            score. None for images of one class each.
    """

    name: str
    image_shape: tuple[Any, ...]
    dtype: np.dtype = np.dtype(np.uint8)
    framed: Callable[..., tuple[np.ndarray, Any]] = staticmethod(framed_pixels)
    target_shapes: Mapping[str, jax.ShapeDtypeStruct]
    placed: Placed | None = None
    read_shapes: Mapping[str, jax.ShapeDtypeStruct] | None = None
    maps: Mapping[str, int] = MappingProxyType({})
    annotations: Any = None

    @abc.abstractmethod
    def __len__(self) -> int: ...

    @abc.abstractmethod
    def __getitems__(self, indices: Sequence[int]) -> list[dict[str, Any]]:
        """Return the examples of several indices, which may be faster than reading one after the other."""

    @property
    def shapes_read(self) -> Mapping[str, jax.ShapeDtypeStruct]:
        """Return shape and dtype of each target as it is read."""
        return self.target_shapes if self.read_shapes is None else self.read_shapes

    def part(self, index: int, framing: Framing | Tries, interpolation: Interpolation = "bilinear") -> dict[str, Any]:
        """Return an example with the canvas on which `framing` puts its image, padded with black.

        Targets that lie in the image move with it, and then "placement" is float32 [8], see `Placement.as_array`. This
        may decode less of the image than `self[index]`.
        """
        example = self[index]
        targets = {name: example[name] for name in self.shapes_read}
        framing = self._chosen(framing, targets, example["image"].shape[:2])
        image, placement = self.framed(example["image"], framing, interpolation)
        return {"image": image, **self._moved(targets, placement), "index": example["index"]}

    def _chosen(self, framing: Framing | Tries, targets: dict[str, Any], size: tuple[int, ...]) -> Framing:
        """Return the framing of a photograph of (height, width), of several the one that its targets decide."""
        if not isinstance(framing, Tries):
            return framing
        height, width = size
        return framing.chosen(lambda each: self._moved(targets, each(height, width)))

    def _moved(self, targets: dict[str, Any], placement: Any) -> dict[str, Any]:
        """Return the targets of a photograph as those of its canvas."""
        if self.placed is None:
            return targets
        numbers = placement.as_array()
        return {**self.placed(targets, numbers), "placement": numbers}

    def targets(self, index: int) -> dict[str, Any]:
        """Return the targets of an example by name; a source of files does not decode its image for that."""
        example = self[index]
        return {name: example[name] for name in self.shapes_read}

    def all_targets(self) -> dict[str, np.ndarray]:
        """Return the targets of all examples by name, each [n, ...], read on as many threads as there are cores.

        Values of any kind are the items of an array of objects.
        """
        arrays = {name: np.empty((len(self), *each.shape), each.dtype) for name, each in self.shapes_read.items()}

        def fill(start: int) -> None:
            for index in range(start, min(start + CHUNK, len(self))):
                for name, value in self.targets(index).items():
                    arrays[name][index] = value

        on_threads(fill, len(self))
        return arrays

    @abc.abstractmethod
    def cached(self) -> "Source":
        """Return a source of the same examples, decoded once into memory.

        Raises:
            DataError: the images take more memory than there is, or an example cannot be read.
        """

    @abc.abstractmethod
    def __getitem__(self, index: int) -> dict[str, Any]: ...

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return (self[index] for index in range(len(self)))

    def _require_index(self, index: int) -> None:
        if not 0 <= index < len(self):
            raise IndexError(f"{self.name}: index {index}, expected 0 to {len(self) - 1}")

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.name}, {len(self)} examples, image_shape={self.image_shape})"


def on_threads(fill: Callable[[int], None], examples: int) -> None:
    """Call `fill` with the first index of every chunk of the examples, on as many threads as there are cores."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for _ in reporting(pool.map(fill, range(0, examples, CHUNK))):
            pass
