"""What is true of the photographs of a split, by which detections are scored: all objects, crowds too, as annotated."""

import functools
import os
import re
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np

from aa_flax.alive import reporting
from aa_flax.data.annotated import Truth
from aa_flax.data.errors import DataError
from aa_flax.data.facts import COCO_CATEGORY_IDS
from aa_flax.data.objects import object_reader, stored_size
from aa_flax.data.prepared import Prepared
from aa_flax.data.record_source import RecordSource


@dataclass(frozen=True)
class Annotations:
    """The annotations of a split of a data set of detection, which are read when they are asked for."""

    prepared: Prepared
    split: str

    @property
    def exist(self) -> bool:
        """Return whether the photographs are annotated; those of a test server are not."""
        return is_annotated(self.prepared, self.split)

    @property
    def category_ids(self) -> tuple[int, ...]:
        """Return the number of each class in the data set's files."""
        return category_ids(self.prepared)

    def truth(self, index: int) -> Truth:
        """Return what is true of one photograph, with the ids that are stored."""
        return self._reader(index)

    @functools.cached_property
    def _reader(self) -> Callable[[int], Truth]:
        return _truth_reader(self.prepared, RecordSource(self.prepared, self.split))

    def truths(self) -> list[Truth]:
        """Return what `read_truths` gives; it is read once."""
        return self._truths

    @functools.cached_property
    def _truths(self) -> list[Truth]:
        return read_truths(self.prepared, self.split)

    def require_truths(self) -> None:
        """Raise DataError unless detections in the photographs can be scored: one has an object that is no crowd."""
        if not self.exist:
            raise DataError(f"{self.split!r}: the photographs are not annotated, so detections in them have no score")
        if not any((~each.objects.crowd).any() for each in self.truths()):
            raise DataError(f"{self.split!r}: no photograph has an annotated object, so detections have no score")

    def require_masks(self) -> None:
        """Raise DataError unless every object has a mask, crowds apart, as far as the data set says.

        Data that were prepared by an older version of this library do not say. Of a part of a split the whole counts.
        """
        form = self.prepared.objects
        if form is None or not form.segmentation:
            raise DataError(f"{self.prepared.folder}: the objects have boxes and no masks, which the network needs")
        counted = self.prepared.metadata.get("without_mask", {})
        for name in _names(self.split):
            count, first = counted.get(name, (0, ""))
            if count:
                raise DataError(
                    f"{self.prepared.folder}: {count:,} objects of {name!r} have no mask, which the network needs: "
                    f"{first}{', ...' * (count > 1)}"
                )

    def require_at_most(self, most: int) -> None:
        """Raise DataError if a photograph has more objects than `most`, crowds apart, as far as the data set says.

        Data that were prepared by an older version of this library do not say, and nothing is said of a part of a
        split; there the photograph itself is an error when it is read.
        """
        counted = self.prepared.metadata.get("object_counts", {})
        for name in _names(self.split) if "[" not in self.split else ():
            over = {int(number): images for number, images in counted.get(name, {}).items() if int(number) > most}
            if over:
                images, (_, first) = sum(count for count, _ in over.values()), over[max(over)]
                raise DataError(
                    f"{self.prepared.folder}: {images:,} images of {name!r} have more than {most} objects, up to "
                    f"{max(over)} ({first}): raise task.options.most_objects"
                )


def read_truths(prepared: Prepared, split: str) -> list[Truth]:
    """Return what is true of each photograph of a split, in the order of its examples; no pixels are decoded.

    Ids of images, and of objects, are those of the data set if it has different ones from 1 on, for images from 0 on;
    else they are numbered from 1 in this order, as in a sum of splits that both begin at 1.

    Raises:
        DataError: the images have no objects, or a record is damaged; the message names it.
    """
    source = RecordSource(prepared, split)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        truths = list(reporting(pool.map(_truth_reader(prepared, source), range(len(source)))))
    return _numbered(truths)


def _truth_reader(prepared: Prepared, source: RecordSource) -> Callable[[int], Truth]:
    """Return the function that reads what is true of a photograph of a source, with the ids that are stored."""
    if prepared.objects is None:
        raise DataError(f"{prepared.folder}: the images have a class each and no boxes")
    read = object_reader(prepared.objects, prepared.image_key)

    def truth(index: int) -> Truth:
        record = source.record(index)
        try:
            height, width = stored_size(record[prepared.image_key])
            objects = read(record)
        except ValueError as error:
            raise DataError(f"{source.place(index)}: {error}") from None
        name = bytes(record.get("image/filename", b"")).decode("utf-8", "surrogateescape")
        return Truth(int(record.get("image/id", -1)), name, height, width, objects)

    return truth


def _numbered(truths: Sequence[Truth]) -> list[Truth]:
    """Return truths whose images, and whose objects, have different ids."""
    images = [each.image_id for each in truths]
    if min(images) < 0 or len({*images}) < len(images):
        images = list(range(1, len(truths) + 1))
    ids = np.concatenate([each.objects.ids for each in truths])
    if len(ids) and (ids.min() < 1 or len(np.unique(ids)) < len(ids)):
        ids = np.arange(1, len(ids) + 1)
    of_image = np.split(ids, np.cumsum([len(each.objects) for each in truths])[:-1])
    return [
        replace(each, image_id=image, objects=replace(each.objects, ids=some))
        for each, image, some in zip(truths, images, of_image, strict=True)
    ]


def category_ids(prepared: Prepared) -> tuple[int, ...]:
    """Return the number of each class in the files that the data set was made of, by which detections are handed in.

    Those of COCO in the TFDS catalogue are COCO's; of other sets that do not say them, 1, 2, 3 and so on.

    Raises:
        DataError: they are damaged.
    """
    count = len(prepared.class_names)
    if prepared.builder.info.name == "coco" and count == len(COCO_CATEGORY_IDS):
        return COCO_CATEGORY_IDS
    ids = prepared.metadata.get("category_ids", list(range(1, count + 1)))
    if not isinstance(ids, list) or len({*map(str, ids)}) != count or not all(isinstance(each, int) for each in ids):
        path = prepared.folder / "metadata.json"
        raise DataError(f"{path}: expected the ids of {count} categories; remove {prepared.folder} and prepare again")
    return tuple(ids)


def is_annotated(prepared: Prepared, split: str) -> bool:
    """Return whether the photographs of a split, or of all in a sum of splits, are annotated.

    COCO's test photographs are not: their annotations lie on its server.
    """
    names = _names(split)
    if "annotated" in prepared.metadata:
        return names <= {*prepared.metadata["annotated"]}
    return prepared.builder.info.name != "coco" or not any(name.startswith("test") for name in names)


def _names(split: str) -> set[str]:
    """Return the splits that a part of one, or a sum, is of."""
    return {re.split(r"[\[ ]", part.strip())[0] for part in split.split("+")}
