"""What is found in the files of a data set: faults, which are told at once, and notes."""

import collections
from pathlib import Path

from aa_flax.data.errors import DataFaults

_FAULTS = 10  # that are told; the rest are counted
_PLACES = 3  # of what is noted
LEFT_OUT = 10  # places of images that are left out
SKIPPING = "--skip_damaged, of `aa-flax data prepare` and `aa-flax finetune`,"


class _Kind:
    """The first lines of a kind, and how many there are: a large data set may have a million."""

    def __init__(self) -> None:
        self.count = 0
        self.first: list[str] = []

    def add(self, line: str, most: int) -> None:
        self.count += 1
        if len(self.first) < most:
            self.first.append(line)


class Findings:
    """What is found in the files of a folder: faults, the first of each kind told at once, and notes."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.faults: dict[str, _Kind] = collections.defaultdict(_Kind)
        self._noted: dict[str, _Kind] = collections.defaultdict(_Kind)

    def fault(self, kind: str, line: str) -> None:
        """Add a fault, one line that names file and number."""
        self.faults[kind].add(line, _FAULTS)

    def note(self, what: str, place: str, most: int = _PLACES) -> None:
        """Add a place to what is noted and is no fault; the first places, up to `most`, are told."""
        self._noted[what].add(place, most)

    @property
    def notes(self) -> list[str]:
        """Return a line for each thing noted: what, how often, and where first."""
        return [
            f"{what}: {kind.count:,} ({'; '.join(kind.first)}{'; ...' * (kind.count > len(kind.first))})"
            for what, kind in self._noted.items()
        ]

    def require_none(self, more: str = "") -> None:
        """Raise DataFaults if there are faults: a line for each of the first ten, every kind among them, and a count.

        Args:
            more: what the user may do about them.
        """
        kinds = list(self.faults.values())
        if not kinds:
            return
        # The first of each kind, then the second of each, and so on.
        places = sorted((place, order) for order, kind in enumerate(kinds) for place in range(len(kind.first)))
        shown = collections.Counter(order for _, order in places[:_FAULTS])
        lines = [line for order, kind in enumerate(kinds) for line in kind.first[: shown[order]]]
        left = {what: kind.count - shown[order] for order, (what, kind) in enumerate(self.faults.items())}
        if rest := ", ".join(f"{what} {count:,}" for what, count in left.items() if count):
            lines.append(f"and {sum(left.values()):,} more: {rest}")
        total = sum(kind.count for kind in kinds)
        if total == 1:
            raise DataFaults(["; ".join([*lines, more] if more else lines)])
        raise DataFaults([f"{self._folder}: {total:,} faults", *lines, *([more] if more else [])])
