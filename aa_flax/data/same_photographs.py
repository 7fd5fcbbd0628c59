"""Photographs that lie in two splits of a prepared data set, byte for byte the same."""

import collections
import hashlib
import itertools

from aa_flax.data.prepared import Prepared
from aa_flax.data.truths import is_annotated

_NAMED = 3


class SamePhotographs:
    """What is known of photographs that occur in two splits: what was recorded, and what was looked at."""

    def __init__(self, prepared: Prepared) -> None:
        self._prepared = prepared
        self._recorded = prepared.metadata.get("same_photographs")
        self._looked_at: dict[bytes, list[tuple[str, int]]] = collections.defaultdict(list)

    def add(self, split: str, index: int, content: bytes) -> None:
        """Add the image of an example that was looked at, as it is stored; it counts where nothing was recorded."""
        if self._recorded is None:
            self._looked_at[hashlib.sha256(content).digest()].append((split, index))

    def lines(self) -> list[str]:
        """Return a line for each two splits that share photographs, unless neither is annotated.

        Where the data set recorded its photographs that occur twice when it was made, those are all; else they are
        those among the ones that were added.
        """
        groups = [*self._looked_at.values()]
        if self._recorded is not None:
            groups = [[(split, int(index)) for split, index in places] for places in self._recorded]
        shared: dict[tuple[str, str], list[tuple[int, int]]] = collections.defaultdict(list)
        splits = [*self._prepared.builder.info.splits]
        for places in groups:
            first = dict(sorted(places, reverse=True))  # the example of the lowest index
            for one, other in itertools.combinations([split for split in splits if split in first], 2):
                shared[one, other].append((first[one], first[other]))
        return [
            f"{self._prepared.folder}: the same photograph is in {one!r} and in {other!r}: {len(pairs):,} "
            f"({'; '.join(f'example {a} = {b}' for a, b in sorted(pairs)[:_NAMED])}{'; ...' * (len(pairs) > _NAMED)})"
            for (one, other), pairs in shared.items()
            # Of COCO's photographs without annotations one set is a part of the other.
            if is_annotated(self._prepared, one) or is_annotated(self._prepared, other)
        ]
