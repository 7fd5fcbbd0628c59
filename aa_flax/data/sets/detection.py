"""The base of data sets of detection that are read from a folder of the user's own; and the form in which all lie.

    image, image/filename, image/id
    objects: box, label, crowd, area, id, segmentation

Boxes are x1, y1, x2, y2 in float64, in pixels of the photograph as a viewer shows it, exactly as annotated: neither
clipped nor rounded. A segmentation is a text, see `aa_flax.data.masks`, "" where there is none. `stored_image` says how
images are stored. Where a photograph's metadata turn it and its annotations have the size from before, its objects are
turned with the pixels; annotations of another size are an error.

Examples are stored in an order that is always the same: at random, or where there is one split only, so that any part
of it has its share of the photographs of each class (`even_order.rarest`).
"""

import abc
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from aa_flax.data.errors import DataError
from aa_flax.data.masks import run_lengths_fault
from aa_flax.data.sets.annotations import Annotated, Annotation, Photo
from aa_flax.data.sets.box_checks import check_boxes, size_fault
from aa_flax.data.sets.builder import Example, Origin, Record, names_and_sizes, stored_name_of_folder
from aa_flax.data.sets.even_order import EVEN_VERSION, even_order, random_order, rarest
from aa_flax.data.sets.findings import LEFT_OUT, SKIPPING, Findings
from aa_flax.data.sets.folder_layout import is_kind
from aa_flax.data.sets.mask_checks import RUN_LENGTHS_LEFT_OUT
from aa_flax.data.sets.moved import moved_box, moved_segmentation, turned_points
from aa_flax.data.sets.repetitions import Repetitions
from aa_flax.data.sets.stored_image import StoredImage, UnreadableError, stored_image
from aa_flax.literal import quoted

_WAY_OUT = f"{SKIPPING} leaves out images that are missing or damaged"
_SKIPPABLE = {"missing", "damaged", "unreadable"}


def object_features(classes: tfds.features.ClassLabel) -> dict[str, tfds.features.FeatureConnector]:
    """Return the features of an example besides its image."""
    # As bytes, because the format of records has no float64.
    number = dict(dtype=np.float64, encoding=tfds.features.Encoding.BYTES)
    return {
        "image/filename": tfds.features.Text(),
        "image/id": tfds.features.Scalar(np.int64),
        "objects": tfds.features.Sequence(
            {
                "box": tfds.features.Tensor(shape=(4,), **number),
                "label": classes,
                "crowd": tfds.features.Scalar(np.bool_),
                "area": tfds.features.Tensor(shape=(), **number),
                "id": tfds.features.Scalar(np.int64),
                "segmentation": tfds.features.Text(),
            }
        ),
    }


class DetectionFolder(Origin):
    """A data set of photographs with boxes in `folder`, which is named by the prefix of its kind and a NAME.

    Args:
        name: the prefix and a NAME.
        folder: the folder.
        skip_damaged: leave out images that are missing or cannot be decoded; without it, they are an error that names
            them all.

    Raises:
        DataError: the name does not have that form, or the files are faulty; all faults are in the message.
    """

    prefix: str
    description = "A folder of photographs with boxes."
    homepage = ""
    image_shape = (None, None, 3)
    encoding = None
    supervised_keys = None

    def __init__(self, name: str, folder: Path, skip_damaged: bool = False):
        self.stored_name = stored_name_of_folder(name, self.prefix)
        self._folder, self._skip_damaged = folder, skip_damaged
        self._findings = Findings(folder)
        self._data = self._read(folder, self._findings)
        self._leave_out_missing()
        if len(self._data.splits) == 1:
            self.version = EVEN_VERSION
        check_boxes(self._data, self._findings)
        self._findings.require_none(self._way_out())
        _count_empty(self._data, self._findings)
        self._same = Repetitions()
        self._unmasked: dict[str, tuple[int, str]] = {}
        self._counts: dict[str, dict[str, tuple[int, str]]] = {}
        self._has_masks = any(
            each.segmentation
            for split in self._data.splits.values()
            for photo in split.photos
            for each in photo.objects
        )

    @abc.abstractmethod
    def _read(self, folder: Path, findings: Findings) -> Annotated:
        """Return what the files say, and add their faults to the findings; those that forbid going on are raised."""

    def photos(self, split: str) -> list[Photo]:
        """Return the photographs of a split, in the order of the files."""
        return self._data.splits[split].photos

    def categories(self) -> tuple[list[int], list[str]]:
        """Return the number and the name of each class."""
        return self._data.category_ids, self._data.class_names

    def _leave_out_missing(self) -> None:
        """Take photographs whose files there are not out of their splits: a fault of the split, or a note for each."""
        for name, split in self._data.splits.items():
            listed, missing = split.photos, list[Photo]()
            split.photos = []
            for photo in listed:
                (split.photos if is_kind(photo.path.is_file) else missing).append(photo)
            if missing and not self._skip_damaged:
                # One fault and not thousands: where the folder of the images is not there, all are missing.
                sources = {photo.source for photo in missing}
                self._findings.fault(
                    "missing",
                    f"{sources.pop() if len(sources) == 1 else self._folder}: {len(missing):,} of the {len(listed):,} "
                    f"images of {name!r} are missing: {quoted([photo.name for photo in missing])} "
                    f"(no {missing[0].path})",
                )
            for photo in missing if self._skip_damaged else ():
                self._findings.note("missing images, left out", f"{photo.source}: {photo.name}", LEFT_OUT)
            if not split.photos and not self._findings.faults:
                raise DataError(f"{self._folder}: the split {name!r} has no images")

    def _way_out(self) -> str:
        """Return what the user may do about the faults; "" if they are others than images that cannot be had."""
        return _WAY_OUT if self._findings.faults.keys() <= _SKIPPABLE else ""

    @property
    def files(self) -> list[Path]:
        return self._data.files + [photo.path for split in self._data.splits.values() for photo in split.photos]

    @property
    def class_names(self) -> list[str]:
        return self._data.class_names

    def features(self) -> dict[str, tfds.features.FeatureConnector]:
        return {"image": self.image_feature(), **object_features(self.class_feature())}

    def metadata(self) -> Mapping[str, Any]:
        """Return the categories' ids, the splits that are annotated, and the places of photographs that occur twice.

        "without_mask" has, of each split with such objects, how many have no mask, crowds apart, and the first of them.
        "object_counts" has, of each split and by the number of objects that can be trained on, how many photographs
        have so many, and the first of them. These and the places are known once all splits are stored.
        """
        return {
            "category_ids": self._data.category_ids,
            "annotated": [name for name, split in self._data.splits.items() if split.annotated],
            "same_photographs": self._same.recorded,
            "without_mask": self._unmasked,
            "object_counts": self._counts,
        }

    @property
    def notes(self) -> list[str]:
        return [f"{self._folder}: {line}" for line in self._findings.notes]

    def checksums(self) -> dict[str, str]:
        """Return a hash of the annotations, and for each split one of the names and sizes of its images."""
        annotations = hashlib.sha256()
        for path in self._data.files:
            annotations.update(path.read_bytes())
        images = {
            f"{name}/images": names_and_sizes(photo.path for photo in split.photos)
            for name, split in self._data.splits.items()
        }
        return {"annotations": annotations.hexdigest(), **images}

    def splits(self) -> Mapping[str, Iterator[Example]]:
        self._same.clear()
        self._unmasked.clear()
        self._counts.clear()
        last = list(self._data.splits)[-1]
        return {name: self._examples(name, name == last) for name in self._data.splits}

    def _examples(self, split: str, last: bool) -> Iterator[Example]:
        """Yield the examples of a split; raise DataError for all images that are faulty at the end of the last split.

        Args:
            split: its name.
            last: whether no split comes after.
        """
        photos, index = self._data.splits[split].photos, 0
        for place in self._order(photos):
            photo = photos[place]
            try:
                image = stored_image(photo.path)
            except DataError as error:
                kind = "unreadable" if isinstance(error, UnreadableError) else "damaged"
                if self._skip_damaged:
                    self._findings.note(f"{kind} images, left out", str(error), LEFT_OUT)
                else:
                    self._findings.fault(kind, str(error))
                continue
            if (objects := self._objects(photo, image)) is None:
                continue
            self._count_unmasked(split, photo, objects)
            self._count(split, photo, objects)
            self._same.add(image.content, split, index, photo.name)
            index += 1
            yield _record(photo, image, objects)
        if last:
            self._findings.require_none(self._way_out())
            self._same.tell(self._findings)
        if not index and self._skip_damaged:
            raise DataError(f"{self._folder}: no image of {split!r} can be decoded")

    def _order(self, photos: Sequence[Photo]) -> list[int]:
        """Return the order in which the photographs of a split are stored."""
        if len(self._data.splits) > 1:
            return random_order(len(photos))
        return even_order(rarest([[each.label for each in photo.objects] for photo in photos]))

    def _objects(self, photo: Photo, image: StoredImage) -> list[Record] | None:
        """Return the objects of a photograph as they are stored, or None after adding to the findings if none fit."""
        height, width = image.size
        before = (width, height) if image.orientation > 4 else (height, width)
        turned = photo.size == before != image.size
        if fault := size_fault(photo, image.size, before):
            self._findings.fault("sizes", fault)
            return None
        if turned:
            self._findings.note("boxes turned with their photographs, as EXIF says", photo.name)
        elif image.orientation > 1 and photo.size == before and photo.objects:
            self._findings.note("turned by EXIF to the same size, boxes taken as of the upright photograph", photo.name)
        points = turned_points(image.orientation, before) if turned else None
        scale = (float(width), float(height)) if self._data.relative else (1.0, 1.0)
        records: list[Record] = []
        for each in photo.objects:
            box = moved_box(each.box, scale, points)
            area = (box[2] - box[0]) * (box[3] - box[1]) if each.area is None else each.area * scale[0] * scale[1]
            shape = self._segmentation(each, photo, before if turned else image.size)
            shape = moved_segmentation(shape, scale, points)
            records.append(
                {
                    "box": np.array(box, np.float64),
                    "label": each.label,
                    "crowd": each.crowd,
                    "area": np.float64(area),
                    "id": each.id,
                    "segmentation": shape,
                }
            )
        return records

    def _segmentation(self, each: Annotation, photo: Photo, size: tuple[int, int]) -> str:
        """Return the segmentation of an object of a photograph whose pixels were (height, width) for its annotator."""
        if each.segmentation.startswith("{") and (fault := run_lengths_fault(json.loads(each.segmentation), size)):
            place = f"{photo.source}: {self._data.unit} {each.number} ({photo.name})"
            self._findings.note(RUN_LENGTHS_LEFT_OUT, f"{place}: {fault}")
            return ""
        return each.segmentation

    def _count(self, split: str, photo: Photo, objects: list[Record]) -> None:
        """Count a photograph by the number of its objects that are neither crowds nor without area."""
        number = sum(not each["crowd"] and bool((each["box"][2:] > each["box"][:2]).all()) for each in objects)
        counts = self._counts.setdefault(split, {})
        images, first = counts.get(str(number), (0, photo.name))
        counts[str(number)] = images + 1, first  # JSON has texts as keys

    def _count_unmasked(self, split: str, photo: Photo, objects: list[Record]) -> None:
        """Count the objects of a photograph that have no mask, crowds apart, and keep where the first one is."""
        without = [each["id"] for each in objects if not each["segmentation"] and not each["crowd"]]
        count, first = self._unmasked.get(split, (0, ""))
        if without:
            first = first or f"object {without[0]} of {photo.name}"
            self._unmasked[split] = count + len(without), first
        for number in without if self._has_masks else ():
            self._findings.note("objects without a mask, kept for their boxes", f"object {number} of {photo.name}")


def _record(photo: Photo, image: StoredImage, objects: list[Record]) -> Record:
    return {
        "image": image.content,
        "image/filename": photo.name.encode("utf-8", "surrogateescape"),
        "image/id": photo.id,
        "objects": objects,
    }


def _count_empty(data: Annotated, findings: Findings) -> None:
    for name, split in data.splits.items():
        if not split.annotated:
            findings.note("splits without annotations", name)
        for photo in split.photos if split.annotated else ():
            if not photo.objects:
                findings.note(f"images of {name} without objects, kept", photo.name)
