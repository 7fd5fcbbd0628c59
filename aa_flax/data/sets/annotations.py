"""Annotated photographs as files describe them, before they are checked and stored."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path


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
        segmentation: COCO's polygons or run lengths as JSON, in the unit of the box; "" if there are none.
    """

    box: tuple[float, float, float, float]
    label: int
    number: int
    id: int
    crowd: bool = False
    area: float | None = None
    segmentation: str = ""


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
