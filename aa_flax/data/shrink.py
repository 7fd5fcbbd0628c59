"""Storing a prepared data set again with smaller images, so that reading it costs less."""

import collections
import hashlib
import io
import itertools
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image

from aa_flax.data.errors import DataError
from aa_flax.data.label_maps import LabelMap, encode_label_map
from aa_flax.data.objects import object_reader, stored_size
from aa_flax.data.placement import resized
from aa_flax.data.prepared import content_fingerprint, open_prepared
from aa_flax.data.record_source import RecordSource
from aa_flax.data.sets.builder import Example, Origin, Record
from aa_flax.data.sets.detection import object_features
from aa_flax.data.sets.label_folder import label_features
from aa_flax.data.sets.moved import moved_segmentation
from aa_flax.data.truths import category_ids, is_annotated

_AHEAD = 8  # examples per thread that may be in work ahead of the one that is written
_REPORT_SECONDS = 30.0
Item = TypeVar("Item")
Result = TypeVar("Result")


class Shrunk(Origin):
    """The data set in `folder`, with its images scaled down to a shorter side of `short_side` pixels.

    They are scaled with Lanczos's filter and encoded as JPEG of `quality`, with chroma at half the resolution as in
    most photographs. Images whose shorter side is not longer are stored byte for byte. Splits, order, labels and names
    of the classes stay. Boxes, areas and masks are scaled with their images, and label maps have the nearest label.
    """

    homepage = ""
    image_shape = (None, None, 3)
    encoding = None

    def __init__(self, folder: Path, short_side: int, quality: int):
        if short_side < 1 or not 1 <= quality <= 100:
            raise DataError(f"short_side is {short_side} and quality {quality}, expected at least 1, and 1 to 100")
        self._prepared = open_prepared(folder)
        info = self._prepared.builder.info
        if info.features[self._prepared.image_key].shape[-1] != 3:
            raise DataError(f"{folder}: images of one channel; only coloured ones are stored smaller")
        self._short_side, self._quality = short_side, quality
        if not self._prepared.label_key:
            self.supervised_keys = None
        self.stored_name = f"{info.full_name.rpartition('/')[0].replace('/', '_')}_side{short_side}"
        self.description = f"{info.full_name}, shorter side at most {short_side} pixels, JPEG quality {quality}."

    @property
    def files(self) -> list[Path]:
        return [self._prepared.folder / "dataset_info.json"]

    @property
    def class_names(self) -> list[str]:
        return list(self._prepared.class_names)

    def features(self) -> dict[str, tfds.features.FeatureConnector]:
        if self._prepared.label_key:
            return super().features()
        if self._prepared.label_map_key:
            return {"image": self.image_feature(), **label_features(self.class_names)}
        return {"image": self.image_feature(), **object_features(self.class_feature())}

    def metadata(self) -> Mapping[str, Any]:
        if self._prepared.label_key:
            return {}
        known = self._prepared.metadata
        if self._prepared.label_map_key:
            return {name: known[name] for name in ("colors", "labels", "same_photographs") if name in known}
        kept = {"same_photographs": known.get("same_photographs", [])}
        kept |= {name: known[name] for name in ("without_mask", "object_counts") if name in known}
        splits = [split for split in self._prepared.builder.info.splits if is_annotated(self._prepared, split)]
        return {"category_ids": list(category_ids(self._prepared)), "annotated": splits, **kept}

    def checksums(self) -> dict[str, str]:
        setting = f"{content_fingerprint(self._prepared.folder)} {self._short_side} {self._quality}"
        return {self._prepared.builder.info.full_name: hashlib.sha256(setting.encode()).hexdigest()}

    def splits(self) -> Mapping[str, Iterator[Example]]:
        return {split: self._examples(split) for split in self._prepared.builder.info.splits}

    def _examples(self, split: str) -> Iterator[Example]:
        source = RecordSource(self._prepared, split)

        def example(index: int) -> Example:
            record = source.record(index)
            try:
                image = shrunk(bytes(record[self._prepared.image_key]), self._short_side, self._quality)
            # Pillow raises many types for damaged files.
            except Exception as error:
                raise DataError(f"{source.place(index)}: the image cannot be decoded ({error})") from None
            if self._prepared.label_key:
                return image, int(record[self._prepared.label_key])
            try:
                if self._prepared.label_map_key:
                    return self._labelled(record, image)
                return self._scaled(record, image, index)
            except ValueError as error:
                raise DataError(f"{source.place(index)}: {error}") from None

        reported = time.monotonic()
        for index, made in enumerate(_in_order(example, range(len(source)))):
            yield made
            if time.monotonic() - reported > _REPORT_SECONDS:
                reported = time.monotonic()
                print(f"{source.name}: {index + 1:,} of {len(source):,}", file=sys.stderr, flush=True)

    def _labelled(self, record: Mapping[str, Any], image: bytes) -> Record:
        """Return a record of a data set of label maps with a smaller image, in this library's form."""
        labels = LabelMap().reader(self._prepared.builder.info.features)(record)
        placement = resized(stored_size(image))(*stored_size(record[self._prepared.image_key])).as_array()
        return {
            "image": image,
            "image/filename": bytes(record["image/filename"]),
            "image/id": int(record["image/id"]),
            "label_map": encode_label_map(LabelMap().placed(labels, placement)["labels"]),
        }

    def _scaled(self, record: Mapping[str, Any], image: bytes, index: int) -> Record:
        """Return a record of a data set of detection with a smaller image, in this library's form."""
        form, key = self._prepared.objects, self._prepared.image_key
        assert form is not None
        objects = object_reader(form, key)(record)
        (height, width), (new_height, new_width) = stored_size(record[key]), stored_size(image)
        scale = new_width / width, new_height / height
        texts = [bytes(text).decode() for text in record[form.key].get("segmentation", [b""] * len(objects))]
        shapes = [moved_segmentation(text, scale) for text in texts]
        return {
            "image": image,
            "image/filename": bytes(record.get("image/filename", b"")),
            "image/id": int(record.get("image/id", index + 1)),
            "objects": [
                {
                    "box": objects.boxes[number] * np.array([*scale, *scale]),
                    "label": int(objects.labels[number]),
                    "crowd": bool(objects.crowd[number]),
                    "area": objects.area[number] * scale[0] * scale[1],
                    "id": int(objects.ids[number]),
                    "segmentation": shape,
                }
                for number, shape in enumerate(shapes)
            ],
        }


def shrunk(encoded: bytes, short_side: int, quality: int = 95) -> bytes:
    """Return the image as a JPEG whose shorter side is `short_side`, or the same bytes if it is no longer than that.

    Raises:
        OSError, ValueError, SyntaxError: what Pillow raises for bytes that are no whole image.
    """
    with Image.open(io.BytesIO(encoded)) as image:
        scale = short_side / min(image.size)
        if scale >= 1:
            image.load()  # raises if the image is damaged
            return encoded
        size = max(short_side, round(image.width * scale)), max(short_side, round(image.height * scale))
        picture = image.convert("RGB").resize(size, Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    picture.save(buffer, "jpeg", quality=quality, subsampling="4:2:0")
    return buffer.getvalue()


def _in_order(function: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
    """Do what `map` does, on as many threads as there are cores, with few results in memory."""
    threads = os.cpu_count() or 1
    with ThreadPoolExecutor(threads) as pool:
        remaining = iter(items)
        waiting: collections.deque[Future[Result]] = collections.deque(
            pool.submit(function, item) for item in itertools.islice(remaining, _AHEAD * threads)
        )
        while waiting:
            result = waiting.popleft().result()
            waiting.extend(pool.submit(function, item) for item in itertools.islice(remaining, 1))
            yield result
