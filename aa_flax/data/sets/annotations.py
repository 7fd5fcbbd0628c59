"""Annotated photographs as files describe them, before they are checked and stored; and what is found wrong."""

import collections
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aa_flax.data.errors import DataError

_NAMED = 5  # of the faults of a kind; the rest are counted
_TOLD = 3  # places of what is noted


@dataclass(slots=True)
class Annotation:
    """An object of a photograph.

    Attributes:
        box: x1, y1, x2, y2, in the unit of its photograph.
        label: the class, counted from 0.
        number: which annotation it is of its file, for messages.
        id: the annotation's own number, at least 1.
        crowd: whether it stands for a group, or for what is too difficult to count.
        area: in that unit squared; None for the box's.
        segmentation: COCO's polygons or run lengths, None if there are none.
    """

    box: tuple[float, float, float, float]
    label: int
    number: int
    id: int
    crowd: bool = False
    area: float | None = None
    segmentation: Any = None


@dataclass(slots=True)
class Photo:
    """A photograph and its objects.

    Attributes:
        path: the file.
        name: the name of the file as the annotations have it.
        id: the photograph's number.
        size: the (height, width) that the annotations refer to; None for that of the photograph when it is upright.
        objects: what is seen.
        source: the file of its annotations.
    """

    path: Path
    name: str
    id: int
    size: tuple[int, int] | None
    objects: list[Annotation]
    source: Path


@dataclass(slots=True)
class Split:
    """The photographs of a split, and whether they are annotated, which those of a test server are not."""

    photos: list[Photo]
    annotated: bool = True


@dataclass
class Annotated:
    """What the files of a data set of detection say.

    Attributes:
        splits: by name.
        class_names: in the order of the labels.
        category_ids: the number of each class in the files.
        unit: what an annotation is called in its file: "annotation", "object", "line".
        relative: whether boxes are parts of the photograph's width and height instead of pixels.
        files: the files of annotations, whose content is part of the data set's fingerprint.
    """

    splits: dict[str, Split]
    class_names: list[str]
    category_ids: list[int]
    unit: str
    relative: bool
    files: list[Path]

    def objects(self) -> Iterator[tuple[Photo, Annotation]]:
        """Yield each object with its photograph."""
        for split in self.splits.values():
            for photo in split.photos:
                for each in photo.objects:
                    yield photo, each


@dataclass
class Findings:
    """What is found in the files of a data set: faults, all of which are told at once, and notes."""

    faults: dict[str, list[str]] = field(default_factory=lambda: collections.defaultdict(list))
    noted: dict[str, list[str]] = field(default_factory=lambda: collections.defaultdict(list))

    def fault(self, kind: str, line: str) -> None:
        """Add a fault, one line that names file and number; the first few of each kind are told."""
        self.faults[kind].append(line)

    def note(self, what: str, place: str) -> None:
        """Add a place to what is noted and is no fault."""
        self.noted[what].append(place)

    @property
    def notes(self) -> list[str]:
        """Return a line for each thing noted: what, how often, and where first."""
        some = {
            what: "; ".join(places[:_TOLD]) + "; ..." * (len(places) > _TOLD) for what, places in self.noted.items()
        }
        return [f"{what}: {len(places):,} ({some[what]})" for what, places in self.noted.items()]

    def require_none(self, more: str = "") -> None:
        """Raise DataError, in one line, if there are faults.

        Args:
            more: what the user may do about them.
        """
        if not self.faults:
            return
        lines = []
        for kind, found in self.faults.items():
            lines += found[:_NAMED]
            if len(found) > _NAMED:
                lines.append(f"and {len(found) - _NAMED:,} more faults of this kind ({kind})")
        raise DataError("; ".join([*lines, more] if more else lines))
