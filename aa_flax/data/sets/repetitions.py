"""Photographs of a data set that occur more than once, found while they are stored."""

import collections
import hashlib
from typing import Any

from aa_flax.data.sets.findings import Findings


class Repetitions:
    """Where photographs occur more than once, byte for byte the same.

    Attributes:
        recorded: for each such photograph the [split, index] of its examples, filled by `tell`.
    """

    def __init__(self) -> None:
        self.recorded: list[list[list[Any]]] = []
        self._places: dict[bytes, list[tuple[str, int, str]]] = collections.defaultdict(list)

    def clear(self) -> None:
        """Forget all."""
        self.recorded.clear()
        self._places.clear()

    def add(self, content: bytes, split: str, index: int, name: str) -> None:
        """Add an example that is stored."""
        self._places[hashlib.sha256(content).digest()].append((split, index, name))

    def tell(self, findings: Findings) -> None:
        """Keep, and note, where photographs occur more than once."""
        for same in self._places.values():
            if len(same) < 2:
                continue
            self.recorded.append([[split, index] for split, index, _ in same])
            splits = sorted({split for split, _, _ in same})
            where = f"in {' and '.join(splits)}" if len(splits) > 1 else f"twice in {splits[0]}"
            findings.note(f"the same photograph {where}", " = ".join(name for _, _, name in same))
