"""A source whose examples are held in memory."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from aa_flax.data.errors import DataError
from aa_flax.data.memory import available_memory
from aa_flax.data.source import CHUNK, Placed, Source, on_threads


class ArraySource(Source):
    """A source whose examples are held in memory."""

    def __init__(
        self,
        name: str,
        images: np.ndarray | Sequence[np.ndarray],
        targets: Mapping[str, np.ndarray],
        placed: Placed | None = None,
        *,
        like: Source | None = None,
    ):
        """Take images and targets without copying them.

        Args:
            name: for messages.
            images: uint8 [n, h, w, c], or n arrays [h, w, c] of any sizes; of signals float32 [n, *space, c].
            targets: by name, each [n, ...].
            placed: moves targets with their image, see `Targets`.
            like: the source from which they were read, whose targets these are in shape, annotations and all else.
        """
        lengths = ", ".join(f"{len(values)} of {target!r}" for target, values in targets.items())
        each = [images[0]] if isinstance(images, np.ndarray) and len(images) else list(images)
        rank = 3
        if like is not None:
            self.dtype, self.framed, rank = like.dtype, like.framed, len(like.image_shape)
        if any(one.ndim != rank or one.dtype != self.dtype for one in each) or any(
            len(images) != len(values) for values in targets.values()
        ):
            shape = f"{images.dtype} {images.shape}" if isinstance(images, np.ndarray) else f"{len(images)} arrays"
            raise DataError(f"{name}: images {shape} with {lengths}, expected uint8 [n, h, w, c] and as many")
        self.name, self.placed = name, placed
        found = ({one.shape[axis] for one in each} for axis in range(rank))
        *sides, channels = (values.pop() if len(values) == 1 else None for values in found)
        if channels is None and each:
            raise DataError(f"{name}: images differ in their channels")
        self.image_shape = *sides, channels or images.shape[-1]  # type: ignore[union-attr]
        self.target_shapes = {
            target: jax.ShapeDtypeStruct(values.shape[1:], values.dtype) for target, values in targets.items()
        }
        if like is not None:
            self.target_shapes, self.read_shapes, self.maps = like.target_shapes, like.read_shapes, like.maps
            self.annotations = like.annotations
        # Examples are views into these arrays, so writing into one would change it in every later epoch.
        self._images = _protected(images) if isinstance(images, np.ndarray) else [_protected(one) for one in images]
        self._targets = {target: _protected(values) for target, values in targets.items()}

    @classmethod
    def of(cls, source: Source) -> "ArraySource":
        """Decode all examples of `source` into memory, on as many threads as there are cores.

        Raises:
            DataError: the images take more memory than there is, or an example cannot be read.
        """
        one_size = None not in source.image_shape
        shape = (len(source), *(side or 0 for side in source.image_shape))
        needed, there = math.prod(shape) * source.dtype.itemsize, available_memory()
        if needed:
            _require_room(source.name, needed, there)
        images: Any = np.empty(shape, source.dtype) if one_size else [np.empty(0, source.dtype)] * len(source)
        targets = {
            name: np.empty((len(source), *target.shape), target.dtype) for name, target in source.shapes_read.items()
        }
        taken: list[int] = []

        def fill(start: int) -> None:
            for example in source.__getitems__(range(start, min(start + CHUNK, len(source)))):
                images[example["index"]] = example["image"]
                for name, values in targets.items():
                    values[example["index"]] = example[name]
                if not one_size:
                    taken.append(example["image"].nbytes)
            if not one_size:
                _require_room(source.name, sum(taken), there)

        on_threads(fill, len(source))
        return cls(source.name, images, targets, source.placed, like=source)

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: int) -> dict[str, Any]:
        self._require_index(index)
        targets = {name: values[index] for name, values in self._targets.items()}
        return {"image": self._images[index], **targets, "index": int(index)}

    def __getitems__(self, indices: Sequence[int]) -> list[dict[str, Any]]:
        return [self[index] for index in indices]

    def cached(self) -> "ArraySource":
        return self


def _protected(values: np.ndarray) -> np.ndarray:
    """Return a view of an array that cannot be written to."""
    view = values.view()
    view.flags.writeable = False
    return view


def _require_room(name: str, needed: int, there: int | None) -> None:
    if there is not None and needed > there:
        raise DataError(
            f"{name}: cached, its images take {needed / 1e9:,.1f} GB (config field 'data.cache'), and "
            f"{there / 1e9:,.1f} GB of memory are available"
        )
