"""A data set of one's own: a folder of image files for each class.

    FOLDER/train/CLASS/*.jpg and FOLDER/val/CLASS/*.jpg      splits by the names of their folders: train, val, test, ...
    FOLDER/CLASS/*.jpg                                       one split, train

`folder_layout` says what else is known. Classes are the names of the folders, sorted. JPEG, PNG and WebP files are
stored byte for byte, of a phone's JPEG with several images the first. Other formats, and images that a viewer shows
otherwise than they are stored (turned by EXIF, 16 bits per channel, transparent), are stored as shown: JPEGs as JPEG of
quality 95, the rest as PNG. So training sees an image as `aa_flax.predict` does.

Examples are stored in a random order, always the same, so that a part of a split has every class.
"""

import hashlib
import io
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from aa_flax.data.errors import DataError, one_line
from aa_flax.data.images import encode_png
from aa_flax.data.sets.builder import Example, Origin
from aa_flax.data.sets.folder_layout import Classes, lay_out
from aa_flax.data.shown import shown
from aa_flax.literal import quoted

PREFIX = "image_folder/"
_STORED_AS_THEY_ARE = ("JPEG", "PNG", "WEBP")


class ImageFolder(Origin):
    """The data set in `folder`, which is named `image_folder/LABEL`.

    Args:
        name: `image_folder/LABEL`.
        folder: the folder of the images.
        skip_damaged: leave out images that cannot be decoded; without it, they are an error that names them all.

    Raises:
        DataError: the name does not have that form, or the folder does not have the layout of this module's docstring.
    """

    description = "A folder of image files for each class."
    homepage = ""
    image_shape = (None, None, 3)
    encoding = None

    def __init__(self, name: str, folder: Path, skip_damaged: bool = False):
        label = name.removeprefix(PREFIX)
        if not re.fullmatch(r"\w+", label, re.ASCII):
            raise DataError(f"{name!r}: expected {PREFIX}NAME, where NAME has letters, digits and underscores only")
        self.stored_name = f"aa_image_folder_{label}"
        self._folder, self._skip_damaged = folder, skip_damaged
        layout = lay_out(folder)
        self._images, self._left_out = layout.splits, layout.left_out
        self._names = list(self._images["train"])
        self._damaged: list[str] = []

    @property
    def files(self) -> list[Path]:
        return [path for classes in self._images.values() for paths in classes.values() for path in paths]

    @property
    def class_names(self) -> list[str]:
        return self._names

    @property
    def notes(self) -> list[str]:
        """Return lines about files that are left out: those that are no images, and those that are damaged."""
        damaged = f"{self._folder}: images left out: {len(self._damaged):,} ({'; '.join(self._damaged)})"
        return [self._left_out] * bool(self._left_out) + [damaged] * bool(self._damaged)

    def checksums(self) -> dict[str, str]:
        """Return, for each class in each split, a hash of its files' names and sizes.

        The files are not read, because that would take hours for a large data set.
        """
        return {
            f"{split}/{name}": hashlib.sha256(b"".join(map(self._described, paths))).hexdigest()
            for split, classes in self._images.items()
            for name, paths in classes.items()
        }

    def _described(self, path: Path) -> bytes:
        try:
            size = path.stat().st_size
        except OSError as error:  # a link that leads nowhere, which is left to decoding
            size = -(error.errno or 1)
        return os.fsencode(path.name) + f" {size}\n".encode()

    def splits(self) -> Mapping[str, Iterator[Example]]:
        self._damaged.clear()
        last = list(self._images)[-1]
        return {split: self._examples(split, classes, split == last) for split, classes in self._images.items()}

    def _examples(self, split: str, classes: Classes, last: bool) -> Iterator[Example]:
        """Yield the examples of a split that can be decoded; raise DataError for all that cannot at the end of all."""
        listed = [(path, label) for label, name in enumerate(self._names) for path in classes[name]]
        found = set()
        for place in np.random.default_rng(0).permutation(len(listed)).tolist():
            path, label = listed[place]
            try:
                example = _encoded(path), label
            except DataError as error:
                self._damaged.append(str(error))
                continue
            found.add(label)
            yield example
        if self._damaged and not self._skip_damaged and last:
            count = f"{len(self._damaged):,} of {len(self.files):,} images"
            way_out = "`python -m aa_flax.data prepare` with --skip_damaged leaves them out"
            raise DataError(f"{'; '.join(self._damaged)}; {count}; {way_out}")
        empty = [name for label, name in enumerate(self._names) if label not in found]
        if empty and self._skip_damaged:
            raise DataError(f"{self._folder}: no image of {split!r} can be decoded in the class {quoted(empty)}")


def _encoded(path: Path) -> bytes:
    """Return the bytes to store; the image is decoded, so that damage is found now and not in the middle of a run.

    Raises:
        DataError: the image cannot be decoded.
    """
    try:
        image = shown(path.read_bytes())
        if image.as_stored and image.format in _STORED_AS_THEY_ARE:
            return image.content
        picture = image.picture.convert("RGB")
        if image.format != "JPEG":
            return encode_png(np.asarray(picture))
        buffer = io.BytesIO()
        picture.save(buffer, "jpeg", quality=95)
        return buffer.getvalue()
    # Pillow raises many types for damaged files.
    except Exception as error:
        raise DataError(f"{path}: the image cannot be decoded ({one_line(error)})") from None
