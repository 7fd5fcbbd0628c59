"""Signals: arrays of numbers over one to three dimensions, such as channels over time or voxels of a volume.

A signal is stored as it is measured, in float32, and seen as it is: never resized, cropped or mirrored. Signals of
different sizes are padded at their ends, and their batches say how much of each is there.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float32

from aa_flax.data.errors import DataError
from aa_flax.data.images import Interpolation
from aa_flax.data.placement import Framing, Tries
from aa_flax.data.prepared import Prepared
from aa_flax.data.record_source import RecordSource
from aa_flax.data.targets import Targets


@dataclass(frozen=True)
class Extent:
    """How much of an array a signal fills from its beginning on: `size`, of the sides of `canvas`."""

    size: tuple[int, ...]
    canvas: tuple[int, ...]

    def as_array(self) -> Float32[np.ndarray, " axes"]:
        """Return the numbers that batches carry as "placement": the sides of the signal."""
        return np.array(self.size, np.float32)


@dataclass(frozen=True)
class Whole:
    """The view of signals that sees all of each, as `View` is one of images.

    Attributes:
        size: the sides of the arrays of a batch; none may be smaller than that of a signal.
    """

    size: tuple[int, ...]
    interpolation: Interpolation = "bilinear"  # of views; nothing is interpolated here

    def framing(self, *sides: int) -> Extent:
        """Return the extent of a signal with these sides.

        Raises:
            ValueError: it is too large.
        """
        if len(sides) != len(self.size) or any(side > most for side, most in zip(sides, self.size, strict=True)):
            raise ValueError(
                f"a signal of {' × '.join(map(str, sides))} does not fit {' × '.join(map(str, self.size))}, which "
                "'data.image_size' sets"
            )
        return Extent(sides, self.size)


def framed_signal(numbers: np.ndarray, framing: Any, interpolation: Interpolation) -> tuple[np.ndarray, Extent]:
    """Return the numbers as they are, and their extent."""
    return numbers, framing(*numbers.shape[:-1])


class SignalSource(RecordSource):
    """A source of signals: `source[i]` has float32 [*space, c] as "image".

    Where signals differ in size, batches have "placement" float32 [b, axes], the sides of each.

    Raises:
        As `RecordSource`.
    """

    dtype = np.dtype(np.float32)
    framed = staticmethod(framed_signal)

    def __init__(self, prepared: Prepared, split: str, targets: Targets | None = None, **options: Any):
        super().__init__(prepared, split, targets, **options)
        if None in self.image_shape:
            self.placed = _as_they_are

    def part(self, index: int, framing: Framing | Tries, interpolation: Interpolation = "bilinear") -> dict[str, Any]:
        try:
            return super(RecordSource, self).part(index, framing, interpolation)
        except ValueError as error:
            raise DataError(f"{self.place(index)}: {error}") from None

    def _decoded(self, record: Any, index: int) -> dict[str, Any]:
        try:
            numbers = np.asarray(record[self._image_key], self.dtype)
        except ValueError as error:
            raise DataError(f"{self.place(index)}: the signal cannot be read ({error})") from None
        expected = self.image_shape
        if numbers.ndim != len(expected) or any(
            side not in (None, found) for side, found in zip(expected, numbers.shape, strict=True)
        ):
            raise DataError(f"{self.place(index)}: a signal of shape {numbers.shape}, expected {expected}")
        if not np.isfinite(numbers).all():
            raise DataError(f"{self.place(index)}: a signal with numbers that are not finite")
        return {"image": numbers, **self._read_targets(record, index), "index": int(index)}


def _as_they_are(targets: dict[str, Any], placement: np.ndarray) -> dict[str, Any]:
    """Return the targets of a signal, which do not lie in it."""
    return targets


def open_split(prepared: Prepared, split: str, targets: Targets | None = None, **options: Any) -> RecordSource:
    """Return the source of a split of a prepared folder, of images or of signals; see `RecordSource`."""
    if prepared.has_signals:
        options.pop("fast_decode", None)  # there is nothing to decode
        return SignalSource(prepared, split, targets, **options)
    return RecordSource(prepared, split, targets, **options)
