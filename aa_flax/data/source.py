"""Random access to the examples of a split, decoded."""

import abc
import bisect
import functools
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import accumulate
from pathlib import Path
from typing import Any

import jax
import numpy as np

from aa_flax.alive import reporting
from aa_flax.data.boxes import Boxes
from aa_flax.data.errors import DataError, one_line
from aa_flax.data.fast_jpeg import decode_part_fast, require_packages
from aa_flax.data.images import Interpolation, decode_image, decode_part, framed_pixels
from aa_flax.data.memory import available_memory
from aa_flax.data.open_files import check_room, make_room
from aa_flax.data.placement import Framing, Placement
from aa_flax.data.prepared import Prepared
from aa_flax.data.records import Records
from aa_flax.data.targets import ClassLabel, Targets, check_targets

_CHUNK = 256  # records that one thread reads and decodes at a time when caching

Placed = Callable[[dict[str, Any], np.ndarray], dict[str, Any]]
"""A function from the targets of a photograph, and `Placement.as_array`, to those of its canvas."""


class Source(abc.ABC):
    """Random access to the examples of a split.

    `source[i]` is {"image": uint8 [h, w, c], "index": i} and the targets by name.

    Attributes:
        name: the names of the data set and the split, for messages.
        image_shape: (h, w, c); h and w are None where images differ in size.
        target_shapes: shape and dtype of each target of an example.
        placed: moves targets with their image, see `Targets`; None for targets that stay as they are.
        annotations: all objects as annotated, see `aa_flax.data.truths.Annotations`; None but for detection.
    """

    name: str
    image_shape: tuple[int | None, int | None, int]
    target_shapes: Mapping[str, jax.ShapeDtypeStruct]
    placed: Placed | None = None
    annotations: Any = None

    @abc.abstractmethod
    def __len__(self) -> int: ...

    @abc.abstractmethod
    def __getitems__(self, indices: Sequence[int]) -> list[dict[str, Any]]:
        """Return the examples of several indices, which may be faster than reading one after the other."""

    def part(self, index: int, framing: Framing, interpolation: Interpolation = "bilinear") -> dict[str, Any]:
        """Return an example with the canvas on which `framing` puts its image, padded with black.

        Targets that lie in the image move with it, and then "placement" is float32 [8], see `Placement.as_array`. This
        may decode less of the image than `self[index]`.
        """
        example = self[index]
        image, placement = framed_pixels(example["image"], framing, interpolation)
        return {**example, "image": image, **self._moved({n: example[n] for n in self.target_shapes}, placement)}

    def _moved(self, targets: dict[str, Any], placement: Placement) -> dict[str, Any]:
        """Return the targets of a photograph as those of its canvas."""
        if self.placed is None:
            return targets
        numbers = placement.as_array()
        return {**self.placed(targets, numbers), "placement": numbers}

    def targets(self, index: int) -> dict[str, Any]:
        """Return the targets of an example by name; a source of files does not decode its image for that."""
        example = self[index]
        return {name: example[name] for name in self.target_shapes}

    def all_targets(self) -> dict[str, np.ndarray]:
        """Return the targets of all examples by name, each [n, ...], read on as many threads as there are cores."""
        arrays = {name: np.empty((len(self), *each.shape), each.dtype) for name, each in self.target_shapes.items()}

        def fill(start: int) -> None:
            for index in range(start, min(start + _CHUNK, len(self))):
                for name, value in self.targets(index).items():
                    arrays[name][index] = value

        _on_threads(fill, len(self))
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


class RecordSource(Source):
    """A source that reads ArrayRecord files and decodes examples at each access.

    Raises:
        OpenFilesError: the process may not open as many files as the split has.
        DataError: at creation, a file is missing; at access, a record is damaged, an image cannot be decoded or targets
            are out of range. The message has the file and the index within the split.
    """

    def __init__(
        self,
        prepared: Prepared,
        split: str,
        targets: Targets | None = None,
        *,
        fast_decode: bool = False,
        missing_ok: bool = False,
    ):
        """Open a split.

        Args:
            prepared: the data set.
            split: the name of the split, or a part of one in the notation of TFDS.
            targets: what is read beside the image; the class label, or the boxes of objects, if not given.
            fast_decode: whether `part` decodes with `fast_jpeg`.
            missing_ok: accept missing files, for a caller that reads none of their examples.
        """
        targets = targets or (Boxes() if prepared.objects else ClassLabel())
        info = prepared.builder.info
        features, split_info = info.features, info.splits[split]
        self.name = f"{info.name}[{split}]"
        self.image_shape = tuple(features[prepared.image_key].shape)
        self.target_shapes, self.placed = targets.shapes, getattr(targets, "placed", None)
        self._image_key, self._targets_of = prepared.image_key, targets.reader(features)
        if fast_decode:
            require_packages()
        self._decode_part = decode_part_fast if fast_decode else decode_part
        instructions = split_info.file_instructions
        self._files = [str(instruction.filename) for instruction in instructions]
        self._ends = list(accumulate(instruction.take for instruction in instructions))
        missing = [file for file in self._files if not Path(file).exists()]
        if missing and not missing_ok:
            raise DataError(f"{missing[0]}: no such file ({len(missing)} of {len(self._files)} of {self.name} missing)")
        make_room(len(self._files))
        self._records = Records(prepared.builder, split, prepared.image_key)

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def __getitem__(self, index: int) -> dict[str, Any]:
        self._require_index(index)
        # A single read, because a batched one starts threads at each call.
        return self._decoded(self._read_one(index), index)

    def part(self, index: int, framing: Framing, interpolation: Interpolation = "bilinear") -> dict[str, Any]:
        self._require_index(index)
        record = self._read_one(index)
        decode = functools.partial(self._decode_part, framing=framing, interpolation=interpolation)
        image, placement = self._pixels(record, index, decode)
        self._require_shape(placement.photo, index)
        targets = self._moved(self._read_targets(record, index), placement)
        return {"image": image, **targets, "index": int(index)}

    def targets(self, index: int) -> dict[str, Any]:
        self._require_index(index)
        return self._read_targets(self._read_one(index), index)

    def __getitems__(self, indices: Sequence[int]) -> list[dict[str, Any]]:
        for index in indices:
            self._require_index(index)
        try:
            records = self._records.__getitems__(list(indices))
        # A batched read fails as a whole and does not say at which record; what it raises depends on the damage.
        except Exception:
            records = [self._read_one(index) for index in indices]
        return [self._decoded(record, index) for record, index in zip(records, indices, strict=True)]

    def cached(self) -> "ArraySource":
        return ArraySource.of(self)

    def _read_one(self, index: int) -> Mapping[str, Any]:
        try:
            return self._records[index]
        except Exception as error:
            check_room(error, self.place(index), len(self._files))
            raise DataError(f"{self.place(index)}: damaged record ({one_line(error)})") from None

    def _decoded(self, record: Mapping[str, Any], index: int) -> dict[str, Any]:
        image = self._pixels(record, index, decode_image)
        self._require_shape(image.shape[:2], index)
        return {"image": image, **self._read_targets(record, index), "index": int(index)}

    def _pixels(self, record: Mapping[str, Any], index: int, decode: Callable[[bytes, int], Any]) -> Any:
        try:
            return decode(record[self._image_key], self.image_shape[-1])
        # Pillow raises many types for damaged files.
        except Exception as error:
            raise DataError(f"{self.place(index)}: the image cannot be decoded ({one_line(error)})") from None

    def _require_shape(self, size: tuple[int, ...], index: int) -> None:
        if any(expected not in (None, found) for found, expected in zip(size, self.image_shape, strict=False)):
            found = (*size, self.image_shape[-1])
            raise DataError(f"{self.place(index)}: an image of shape {found}, expected {self.image_shape}")

    def _read_targets(self, record: Mapping[str, Any], index: int) -> dict[str, Any]:
        try:
            targets = self._targets_of(record)
        except ValueError as error:
            raise DataError(f"{self.place(index)}: {error}") from None
        check_targets(targets, self.target_shapes)  # a mistake in the task, not in the example
        return targets

    def record(self, index: int) -> Mapping[str, Any]:
        """Return an example as it is stored: the image is encoded and nothing is checked."""
        self._require_index(index)
        return self._read_one(index)

    def encoded(self, index: int) -> bytes:
        """Return the image of an example as it is stored."""
        return bytes(self.record(index)[self._image_key])

    def place(self, index: int) -> str:
        """Return the file and the index of an example in words, for messages."""
        return f"{self._files[bisect.bisect_right(self._ends, index)]}: example {index} of {self.name}"


class ArraySource(Source):
    """A source whose examples are held in memory."""

    def __init__(
        self,
        name: str,
        images: np.ndarray | Sequence[np.ndarray],
        targets: Mapping[str, np.ndarray],
        placed: Placed | None = None,
    ):
        """Take images and targets without copying them.

        Args:
            name: for messages.
            images: uint8 [n, h, w, c], or n arrays [h, w, c] of any sizes.
            targets: by name, each [n, ...].
            placed: moves targets with their image, see `Targets`.
        """
        lengths = ", ".join(f"{len(values)} of {target!r}" for target, values in targets.items())
        each = [images[0]] if isinstance(images, np.ndarray) and len(images) else list(images)
        if any(one.ndim != 3 or one.dtype != np.uint8 for one in each) or any(
            len(images) != len(values) for values in targets.values()
        ):
            shape = f"{images.dtype} {images.shape}" if isinstance(images, np.ndarray) else f"{len(images)} arrays"
            raise DataError(f"{name}: images {shape} with {lengths}, expected uint8 [n, h, w, c] and as many")
        self.name, self.placed = name, placed
        sides = ({one.shape[axis] for one in each} for axis in range(3))
        height, width, channels = (found.pop() if len(found) == 1 else None for found in sides)
        if channels is None and each:
            raise DataError(f"{name}: images differ in their channels")
        self.image_shape = height, width, channels or images.shape[-1]  # type: ignore[union-attr]
        self.target_shapes = {
            target: jax.ShapeDtypeStruct(values.shape[1:], values.dtype) for target, values in targets.items()
        }
        # Examples are views into these arrays, so writing into one would change it in every later epoch.
        self._images = _protected(images) if isinstance(images, np.ndarray) else [_protected(one) for one in images]
        self._targets = {target: _protected(values) for target, values in targets.items()}

    @classmethod
    def of(cls, source: Source) -> "ArraySource":
        """Decode all examples of `source` into memory, on as many threads as there are cores.

        Raises:
            DataError: the images take more memory than there is, or an example cannot be read.
        """
        height, width, channels = source.image_shape
        one_size = height is not None and width is not None
        needed, there = len(source) * (height or 0) * (width or 0) * channels, available_memory()
        if needed:
            _require_room(source.name, needed, there)
        shape = (len(source), height or 0, width or 0, channels)
        images: Any = np.empty(shape, np.uint8) if one_size else [np.empty(0, np.uint8)] * len(source)
        targets = {
            name: np.empty((len(source), *target.shape), target.dtype) for name, target in source.target_shapes.items()
        }
        taken: list[int] = []

        def fill(start: int) -> None:
            for example in source.__getitems__(range(start, min(start + _CHUNK, len(source)))):
                images[example["index"]] = example["image"]
                for name, values in targets.items():
                    values[example["index"]] = example[name]
                if not one_size:
                    taken.append(example["image"].nbytes)
            if not one_size:
                _require_room(source.name, sum(taken), there)

        _on_threads(fill, len(source))
        held = cls(source.name, images, targets, source.placed)
        held.annotations = source.annotations
        return held

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


def _on_threads(fill: Callable[[int], None], examples: int) -> None:
    """Call `fill` with the first index of every chunk of the examples, on as many threads as there are cores."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for _ in reporting(pool.map(fill, range(0, examples, _CHUNK))):
            pass
