"""A source that replaces damaged examples by others, up to a budget."""

import threading
from collections.abc import Callable, Sequence
from typing import Any

from absl import logging

from aa_flax.data.array_source import ArraySource
from aa_flax.data.errors import DataError
from aa_flax.data.images import Interpolation
from aa_flax.data.open_files import OpenFilesError
from aa_flax.data.placement import Framing, Tries
from aa_flax.data.source import Source


class TolerantSource(Source):
    """The examples of another source, where the next readable one replaces a damaged one and gets its index.

    The example at an index depends on the data only, never on what was read before, so that any number of processes
    sees the same examples at the same indices.

    An example counts as damaged if two reads in a row fail: a network file system may fail once. Each process logs and
    counts every damaged example that it reads once, from its start on.

    Attributes:
        budget: how many distinct damaged examples this process may read.

    Raises:
        DataError: at access, if more than `budget` are damaged, with all their indices; or if no example can be read.
    """

    def __init__(self, source: Source, budget: int, _found: dict[int, str] | None = None):
        if budget < 1:
            raise ValueError(f"budget is {budget}, expected at least 1; without one, read the source itself")
        self.name, self.image_shape, self.target_shapes = source.name, source.image_shape, source.target_shapes
        self.placed, self.read_shapes, self.maps = source.placed, source.read_shapes, source.maps
        self.dtype, self.framed = source.dtype, source.framed
        self.budget = budget
        self._source, self._found = source, {} if _found is None else _found
        self._lock = threading.Lock()

    @property
    def damaged(self) -> dict[int, str]:
        """Return what is wrong with each damaged example that was read, by its index."""
        with self._lock:
            return dict(sorted(self._found.items()))

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self._replaced(index, self._source.__getitem__)

    def targets(self, index: int) -> dict[str, Any]:
        found = self._replaced(index, self._source.targets)
        return {name: found[name] for name in self.shapes_read}

    def part(self, index: int, framing: Framing | Tries, interpolation: Interpolation = "bilinear") -> dict[str, Any]:
        return self._replaced(index, lambda i: self._source.part(i, framing, interpolation))

    def __getitems__(self, indices: Sequence[int]) -> list[dict[str, Any]]:
        try:
            return self._source.__getitems__(indices)
        # A batched read fails as a whole, so each example is read by itself.
        except DataError:
            return [self[index] for index in indices]

    def cached(self) -> "TolerantSource":
        return TolerantSource(ArraySource.of(self), self.budget, self._found)

    def _replaced(self, index: int, read: Callable[[int], dict[str, Any]]) -> dict[str, Any]:
        self._require_index(index)
        for candidate in range(index, index + len(self)):
            candidate %= len(self)
            for attempt in range(2):
                try:
                    return {**read(candidate), "index": int(index)}
                except OpenFilesError:
                    raise  # another example would do no better
                except DataError as error:
                    if attempt:
                        self._count(candidate, str(error))
        raise DataError(f"{self.name}: not one of {len(self)} examples can be read")

    def _count(self, index: int, message: str) -> None:
        with self._lock:
            if index in self._found:
                return
            self._found[index] = message
            damaged = sorted(self._found)
        if len(damaged) > self.budget:
            raise DataError(
                f"{message}; that makes {len(damaged)} damaged examples, where {self.budget} may be replaced: "
                f"{', '.join(map(str, damaged))}"
            )
        logging.warning("%s; the next example takes its place (%d of %d)", message, len(damaged), self.budget)
