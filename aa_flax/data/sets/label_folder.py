"""Photographs with a label map each, in a folder of the user's own: `label_folder/NAME`.

`label_layout` says how files lie, `label_classes` what the values of maps stand for, and `label_image` which PNGs are
read. In a record are the photograph, stored as `stored_image` says, and its label map, a grey PNG of 8 bits whose
values are final: a class from 0 on, or 255.

    image, image/filename, image/id, label_map

Where a photograph's metadata turn it and its map has the size from before, the map is turned with the pixels; maps of
another size are an error. Examples are stored in a random order, always the same, so that a part of a split is like the
whole.
"""

import hashlib
import os
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from jaxtyping import UInt8
from PIL import Image

from aa_flax.alive import reporting
from aa_flax.data.errors import DataError
from aa_flax.data.label_maps import IGNORED, encode_label_map
from aa_flax.data.prepared import names_in_lines
from aa_flax.data.sets.builder import Example, Origin, names_and_sizes, stored_name_of_folder
from aa_flax.data.sets.even_order import random_order
from aa_flax.data.sets.findings import LEFT_OUT, SKIPPING, Findings
from aa_flax.data.sets.folder_layout import name_of
from aa_flax.data.sets.label_classes import LabelClasses, numbered, read_classes
from aa_flax.data.sets.label_image import WrongForm, labels_of, read_label_image
from aa_flax.data.sets.label_layout import Pair, lay_out_maps
from aa_flax.data.sets.repetitions import Repetitions
from aa_flax.data.sets.stored_image import StoredImage, UnreadableError, stored_image
from aa_flax.data.shown import TURNS

PREFIX = "label_folder/"
_WAY_OUT = f"{SKIPPING} leaves out what is damaged or lacks its map or its photograph"
_SKIPPABLE = {"photographs without a map", "maps without a photograph", "damaged", "unreadable"}


def label_features(names: list[str]) -> dict[str, tfds.features.FeatureConnector]:
    """Return the features of an example besides its image."""
    return {
        "image/filename": tfds.features.Text(),
        "image/id": tfds.features.Scalar(np.int64),
        "label_map": tfds.features.LabeledImage(labels=names_in_lines(names), encoding_format="png"),
    }


class LabelFolder(Origin):
    """The data set in `folder`, which is named `label_folder/NAME`.

    Args:
        name: `label_folder/NAME`.
        folder: the folder.
        skip_damaged: leave out photographs without a map, maps without a photograph, and files that cannot be decoded;
            without it, they are an error that names them.

    Raises:
        DataError: the name does not have that form, the file of the classes is faulty, or a split has no pair. Other
            faults are raised together, once `splits` has looked at every file.
    """

    description = "A folder of photographs with a label map each."
    homepage = ""
    image_shape = (None, None, 3)
    encoding = None
    supervised_keys = None

    def __init__(self, name: str, folder: Path, skip_damaged: bool = False):
        self.stored_name = stored_name_of_folder(name, PREFIX)
        self._folder, self._skip_damaged = folder, skip_damaged
        self._findings = Findings(folder)
        layout = lay_out_maps(folder)
        for what, paths in (
            ("photographs without a map", layout.without_map),
            ("maps without a photograph", layout.without_photo),
        ):
            for path in paths:
                self._leave_out(what, str(path), f"{path}: one of the {what}")
        for path in layout.left_out:
            self._findings.note("folders of photographs without one of maps, left out", str(path))
        self._pairs = layout.splits
        if empty := [split for split, pairs in self._pairs.items() if not pairs]:
            self._findings.require_none(self._way_out())
            raise DataError(f"{folder}: the split {empty[0]!r} has no photograph with a map")
        self._classes = self._read_classes()
        self._same = Repetitions()

    def _read_classes(self) -> LabelClasses:
        """Return the classes, by their file or else by the values of all maps.

        Raises:
            DataError: the file is faulty, or there is none and the maps have one value.
        """
        of_file = read_classes(self._folder)
        if of_file is not None:
            return of_file
        values = _largest_values(pair.map for pairs in self._pairs.values() for pair in pairs)
        if -1 in values:
            return numbered(2)  # of colours, which are a fault of each map
        most = max(values)
        if most < 1:
            raise DataError(
                f"{self._folder}: the only value of the label maps is {most}, besides {IGNORED}, which stands for no "
                "class; two classes are needed (a file classes.txt names those that are not seen)"
            )
        for number in range(most + 1):
            self._findings.note("classes that no classes.txt names, so that they are numbers", f"class {number}")
        return numbered(most + 1)

    def _leave_out(self, what: str, place: str, line: str) -> None:
        """Add a fault, or where such are left out a note."""
        if self._skip_damaged:
            self._findings.note(f"{what}, left out", place, LEFT_OUT)
        else:
            self._findings.fault(what, line)

    def _way_out(self) -> str:
        """Return what the user may do about the faults; "" if they are others than files that cannot be had."""
        return _WAY_OUT if self._findings.faults.keys() <= _SKIPPABLE else ""

    @property
    def files(self) -> list[Path]:
        pairs = [pair for pairs in self._pairs.values() for pair in pairs]
        own = [self._classes.path] if self._classes.path else []
        return own + [path for pair in pairs for path in (pair.photo, pair.map)]

    @property
    def class_names(self) -> list[str]:
        return self._classes.names

    def features(self) -> dict[str, tfds.features.FeatureConnector]:
        return {"image": self.image_feature(), **label_features(self.class_names)}

    def metadata(self) -> Mapping[str, Any]:
        """Return the classes' colours, the label of each value of the files, and photographs that occur twice."""
        colors = [None if color is None else list(color) for color in self._classes.colors]
        return {"colors": colors, "labels": self._classes.labels, "same_photographs": self._same.recorded}

    @property
    def notes(self) -> list[str]:
        return [f"{self._folder}: {line}" for line in self._findings.notes]

    def checksums(self) -> dict[str, str]:
        """Return a hash of the classes, and for each split one of the photographs' names and sizes, and of its maps."""
        sums = {}
        if self._classes.path:
            sums[self._classes.path.name] = _hash([self._classes.path])
        for split, pairs in self._pairs.items():
            sums[f"{split}/images"] = names_and_sizes(pair.photo for pair in pairs)
            sums[f"{split}/label_maps"] = _hash(pair.map for pair in pairs)
        return sums

    def splits(self) -> Mapping[str, Iterator[Example]]:
        self._same.clear()
        last = list(self._pairs)[-1]
        return {split: self._examples(split, split == last) for split in self._pairs}

    def _examples(self, split: str, last: bool) -> Iterator[Example]:
        """Yield the examples of a split; raise DataError for all that are faulty at the end of the last split."""
        pairs, index = self._pairs[split], 0
        for place in random_order(len(pairs)):
            pair = pairs[place]
            try:
                image = stored_image(pair.photo)
                labels = self._labels(pair, image)
            except DataError as error:
                if isinstance(error, WrongForm):
                    self._findings.fault("maps of another form", str(error))
                else:
                    what = "unreadable" if isinstance(error, UnreadableError) else "damaged"
                    self._leave_out(what, str(error), str(error))
                continue
            if labels is None:
                continue
            if (labels == IGNORED).all():
                self._findings.note(f"images of {split} whose pixels are all of no class, kept", pair.photo.name)
            self._same.add(image.content, split, index, pair.photo.name)
            index += 1
            yield {
                "image": image.content,
                "image/filename": name_of(pair.photo).encode("utf-8", "surrogateescape"),
                "image/id": place + 1,
                "label_map": encode_label_map(labels),
            }
        if last:
            self._findings.require_none(self._way_out())
            self._same.tell(self._findings)
        if not index and self._skip_damaged:
            raise DataError(f"{self._folder}: no image of {split!r} can be decoded")

    def _labels(self, pair: Pair, image: StoredImage) -> UInt8[np.ndarray, "h w"] | None:
        """Return the labels of a photograph as it is stored, or None after adding to the findings if they do not fit.

        Raises:
            DataError: the map cannot be read.
        """
        read = read_label_image(pair.map)
        height, width = image.size
        before = (width, height) if image.orientation > 4 else (height, width)
        if read.size not in (image.size, before):
            own, other = (f"{size[1]} × {size[0]}" for size in (read.size, image.size))
            self._findings.fault("sizes", f"{pair.map}: {own} (width × height), and {pair.photo.name} is {other}")
            return None
        try:
            labels = labels_of(read, self._classes)
        except ValueError as error:
            kind = "values" if read.pixels.ndim == 2 else "colours"
            self._findings.fault(kind, f"{pair.map}: {error}")
            return None
        if read.size != image.size:
            self._findings.note("maps turned with their photographs, as EXIF says", pair.photo.name)
            return np.asarray(Image.fromarray(labels).transpose(TURNS[image.orientation]))
        if image.orientation > 1 and before == image.size:
            self._findings.note(
                "turned by EXIF to the same size, maps taken as of the upright photograph", pair.photo.name
            )
        return labels


def _largest_values(maps: Iterable[Path]) -> list[int]:
    """Return the largest value of each label map besides `IGNORED`; -1 of colours, 0 of a file that is damaged."""

    def largest(path: Path) -> int:
        try:
            pixels = read_label_image(path).pixels
        except DataError:  # found when it is to be stored
            return 0
        return int(pixels[pixels != IGNORED].max(initial=0)) if pixels.ndim == 2 else -1

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return [*reporting(pool.map(largest, maps))]


def _hash(paths: Iterable[Path]) -> str:
    """Return a hash of the names and contents of files; raise DataError if one cannot be read."""
    digest = hashlib.sha256()
    for path in reporting([*paths]):
        try:
            content = path.read_bytes()
        except OSError as error:
            raise DataError(f"{path}: cannot be read ({error.strerror or error})") from None
        digest.update(os.fsencode(path.name) + f" {len(content)}\n".encode() + content)
    return digest.hexdigest()
