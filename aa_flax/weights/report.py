"""The report on what was done with each array of weights."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from aa_flax.weights.errors import printable


@dataclass(frozen=True, repr=False)
class Report:
    """What was done with each array of a network, by dotted path.

    Attributes:
        loaded: arrays that were taken as a whole.
        partial: arrays of which the first entries along the last axis were taken: (entries taken, all entries) by path.
        new: arrays that keep their initial values, and the output projections that were set to zero.
        unused: keys of the state dict for which the network has no array.
        resized: position tables made for maps of another size: (rows they had, rows they have) by path.
        notes: what was done to the names and values before, in sentences: a prefix taken off, counters left out, a stem
            made for another number of channels, and what the file says about the network that it is of.
    """

    loaded: tuple[str, ...] = ()
    partial: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    new: tuple[str, ...] = ()
    unused: tuple[str, ...] = ()
    resized: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        lines = [self._summary()]
        lines += [f"  note     {note}" for note in self.notes]
        lines += [f"  in part  {path}: {taken} of {total}" for path, (taken, total) in self.partial.items()]
        lines += [f"  resized  {path}: {before} to {after} rows" for path, (before, after) in self.resized.items()]
        lines += [f"  new      {path}" for path in self.new]
        lines += [f"  unused   {key}" for key in self.unused]
        return "\n".join(map(printable, lines))

    def __repr__(self) -> str:
        return f"<Report: {self._summary()}; print it for all>"

    def _summary(self) -> str:
        resized = f", {len(self.resized)} resized" if self.resized else ""
        return f"{len(self.loaded)} arrays taken over, {len(self.partial)} in part{resized}, {len(self.new)} new"

    def within(self, part: str, others: Iterable[str]) -> "Report":
        """Return the report on a part of a network as one on the whole network, whose other arrays are new."""

        def named(paths: Iterable[str]) -> tuple[str, ...]:
            return tuple(f"{part}.{path}" for path in paths)

        partial = dict(zip(named(self.partial), self.partial.values(), strict=True))
        resized = dict(zip(named(self.resized), self.resized.values(), strict=True))
        return Report(named(self.loaded), partial, (*named(self.new), *others), self.unused, resized, self.notes)
