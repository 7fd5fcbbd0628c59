"""Sizes of the pieces into which attention is cut, so that its weights stay within a memory budget."""

import math
from dataclasses import dataclass

from aa_flax.ops.platform import target_platform


@dataclass(frozen=True)
class Budget:
    """Limits of attention weights in bytes, in the accumulator's dtype. A pass holds two to four such arrays."""

    whole: int  # up to this many for the whole call there are no pieces
    piece: int  # otherwise the limit of one piece

    def of_each(self, images: int) -> "Budget":
        """Return one image's share if all `images` are computed at once; a piece stays at least `ON_CPU.piece`."""
        return Budget(self.whole // images, max(self.piece // images, ON_CPU.piece))


# Weights that stay in a CPU's caches: measured from 7x7 to 32x32 on two cores with 1 MiB of second-level cache each.
ON_CPU = Budget(whole=8 << 20, piece=5 << 19)
# On other devices pieces only bound the memory; the larger they are, the fewer steps of a loop the chip has to take.
ELSEWHERE = Budget(whole=256 << 20, piece=256 << 20)


def budget() -> Budget:
    """Return the budget of the device that the program will run on."""
    return ON_CPU if target_platform() == "cpu" else ELSEWHERE


@dataclass(frozen=True)
class Pieces:
    """Attention over m maps, one for each image and head, cut into equal pieces.

    A piece is `group` maps with all their h·w queries, or, if the weights of one map are too many, a block of `rows` by
    `columns` queries of one map. A piece always sees all keys, so its softmax needs no second pass. Sizes that the
    pieces do not divide are padded with zeros.
    """

    maps: int
    height: int
    width: int
    group: int
    rows: int
    columns: int

    @classmethod
    def within(cls, budget: int, maps: int, height: int, width: int, itemsize: int) -> "Pieces":
        """Return as few pieces as `budget` allows for weights of `itemsize` bytes; at least one query in each piece."""
        queries = max(1, budget // (itemsize * height * width))
        if queries >= height * width:
            return cls(maps, height, width, _even(maps, queries // (height * width)), height, width)
        if queries >= width:
            return cls(maps, height, width, 1, _even(height, queries // width), width)
        return cls(maps, height, width, 1, 1, _even(width, queries))

    @property
    def filled(self) -> tuple[int, int, int]:
        """The sizes m, h and w, padded to whole pieces."""
        steps = self.steps
        return steps[0] * self.group, steps[1] * self.rows, steps[2] * self.columns

    @property
    def steps(self) -> tuple[int, int, int]:
        """The number of pieces along maps, rows and columns."""
        return -(-self.maps // self.group), -(-self.height // self.rows), -(-self.width // self.columns)

    @property
    def count(self) -> int:
        """The number of pieces."""
        return math.prod(self.steps)

    @property
    def parts_maps(self) -> bool:
        """Return whether the queries of a map lie in several pieces."""
        return self.steps[1:] != (1, 1)


def _even(length: int, largest: int) -> int:
    """Return the size of equal parts of at most `largest`, as few parts as possible."""
    return -(-length // -(-length // largest))
