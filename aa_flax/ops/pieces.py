"""Into what pieces attention is cut, so that its weights stay within a budget of memory."""

import math
from dataclasses import dataclass

from aa_flax.ops.platform import target_platform


@dataclass(frozen=True)
class Budget:
    """Bytes of attention weights in the accumulator's dtype. Passes hold two to four such arrays."""

    whole: int  # all of them up to here: no pieces
    piece: int  # else those of one piece

    def of_each(self, images: int) -> "Budget":
        """The share of an image where all of a batch are worked on at once; never less than fills a CPU's caches."""
        return Budget(self.whole // images, max(self.piece // images, ON_CPU.piece))


# Weights that stay in a CPU's caches: measured from 7x7 to 32x32 on two cores with 1 MiB of second-level cache each.
ON_CPU = Budget(whole=8 << 20, piece=5 << 19)
# On other devices pieces only bound the memory, and the larger they are the fewer loops stand in the chip's way.
ELSEWHERE = Budget(whole=256 << 20, piece=256 << 20)


def budget() -> Budget:
    """That of the device on which the program will run."""
    return ON_CPU if target_platform() == "cpu" else ELSEWHERE


@dataclass(frozen=True)
class Pieces:
    """Attention over m maps, one for each image and head, cut into equal pieces.

    A piece is `group` maps with all their h·w queries, or, where the weights of one map are too many, a block of `rows`
    by `columns` queries of one map. A piece always sees all keys, so its softmax needs no second pass. What does not
    divide is filled up with zeros.
    """

    maps: int
    height: int
    width: int
    group: int
    rows: int
    columns: int

    @classmethod
    def within(cls, budget: int, maps: int, height: int, width: int, itemsize: int) -> "Pieces":
        """As few as `budget` bytes of weights, each of `itemsize`, allow; one query if not even that fits."""
        queries = max(1, budget // (itemsize * height * width))
        if queries >= height * width:
            return cls(maps, height, width, _even(maps, queries // (height * width)), height, width)
        if queries >= width:
            return cls(maps, height, width, 1, _even(height, queries // width), width)
        return cls(maps, height, width, 1, 1, _even(width, queries))

    @property
    def filled(self) -> tuple[int, int, int]:
        """m, h and w filled up."""
        steps = self.steps
        return steps[0] * self.group, steps[1] * self.rows, steps[2] * self.columns

    @property
    def steps(self) -> tuple[int, int, int]:
        """How many pieces there are along maps, rows and columns."""
        return -(-self.maps // self.group), -(-self.height // self.rows), -(-self.width // self.columns)

    @property
    def count(self) -> int:
        """How many pieces there are."""
        return math.prod(self.steps)

    @property
    def parts_maps(self) -> bool:
        """Whether the queries of a map fall into several pieces."""
        return self.steps[1:] != (1, 1)


def _even(length: int, largest: int) -> int:
    """The size of equal parts of at most `largest`, as few as there can be."""
    return -(-length // -(-length // largest))
