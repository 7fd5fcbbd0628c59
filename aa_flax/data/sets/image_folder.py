"""A data set of one's own: a folder of image files for each class.

    FOLDER/train/CLASS/*.jpg and FOLDER/val/CLASS/*.jpg      splits by the names of their folders: train, val, test, ...
    FOLDER/CLASS/*.jpg                                       one split, train

Classes are the names of the folders, sorted. JPEG, PNG and WebP files are stored byte for byte. Other formats, and
images that a viewer shows otherwise than they are stored (turned by EXIF, 16 bits per channel, transparent), are stored
as shown: JPEGs as JPEG of quality 95, the rest as PNG. So training sees an image as `aa_flax.predict` does.

Examples are stored in a random order, always the same, so that a part of a split has every class.
"""

import hashlib
import io
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
from PIL import Image

from aa_flax.data.errors import DataError
from aa_flax.data.images import as_shown, encode_png
from aa_flax.data.sets.builder import Example, Origin

PREFIX = "image_folder/"
_SPLITS = ("train", "val", "valid", "validation", "test")
_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff")
_STORED_AS_THEY_ARE = ("JPEG", "PNG", "WEBP")
_ENTRY_LIMIT = 3  # names quoted in a message


class ImageFolder(Origin):
    """The data set in `folder`, which is named `image_folder/LABEL`.

    Raises:
        DataError: the name does not have that form, or the folder does not have the layout of this module's docstring.
    """

    description = "A folder of image files for each class."
    homepage = ""
    image_shape = (None, None, 3)
    encoding = None

    def __init__(self, name: str, folder: Path):
        label = name.removeprefix(PREFIX)
        if not re.fullmatch(r"\w+", label, re.ASCII):
            raise DataError(f"{name!r}: expected {PREFIX}NAME, where NAME has letters, digits and underscores only")
        self.stored_name = f"aa_image_folder_{label}"
        self._folder = folder
        found = _folders(folder)
        named = [child for child in found if child.name in _SPLITS]
        if named and len(named) < len(found):
            others = [child.name for child in found if child not in named]
            raise DataError(f"{folder}: beside the splits {_some([c.name for c in named])} there is {_some(others)}")
        self._images = {child.name: _by_class(child) for child in named} if named else {"train": _by_class(folder)}
        if "train" not in self._images:
            raise DataError(f"{folder}: no folder 'train' beside {_some([child.name for child in named])}")
        self._names = sorted(self._images["train"])
        for split, classes in self._images.items():
            if differing := sorted(classes.keys() ^ self._images["train"].keys()):
                raise DataError(f"{folder}: 'train' and {split!r} differ in their classes: {_some(differing)}")

    @property
    def files(self) -> list[Path]:
        return [path for classes in self._images.values() for paths in classes.values() for path in paths]

    @property
    def class_names(self) -> list[str]:
        return self._names

    def checksums(self) -> dict[str, str]:
        """Return, for the folder of each class in each split, a hash of its files' names and sizes.

        The files are not read, because that would take hours for a large data set.
        """
        return {
            f"{split}/{name}": hashlib.sha256(
                "".join(f"{path.name} {path.stat().st_size}\n" for path in paths).encode()
            ).hexdigest()
            for split, classes in self._images.items()
            for name, paths in classes.items()
        }

    def splits(self) -> Mapping[str, Iterator[Example]]:
        return {split: self._examples(classes) for split, classes in self._images.items()}

    def _examples(self, classes: Mapping[str, list[Path]]) -> Iterator[Example]:
        listed = [(path, label) for label, name in enumerate(self._names) for path in classes[name]]
        for place in np.random.default_rng(0).permutation(len(listed)).tolist():
            path, label = listed[place]
            yield _encoded(path), label


def _folders(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise DataError(f"{folder}: expected a folder with a folder of images for each class")
    return sorted(child for child in folder.iterdir() if child.is_dir() and not child.name.startswith("."))


def _by_class(folder: Path) -> dict[str, list[Path]]:
    """Return the files of each class, sorted, by the name of the class."""
    classes = {child.name: _images(child) for child in _folders(folder)}
    if len(classes) < 2:
        raise DataError(f"{folder}: {len(classes)} folders of classes, expected at least 2")
    if empty := [name for name, paths in classes.items() if not paths]:
        raise DataError(f"{folder}: no image in the class {_some(empty)}")
    return classes


def _images(folder: Path) -> list[Path]:
    paths = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    # Other files are an error, because nobody would notice if they were left out.
    if others := [path.name for path in paths if path.suffix.lower() not in _SUFFIXES or not path.is_file()]:
        raise DataError(f"{folder}: {_some(others)}: not an image by its name ({', '.join(_SUFFIXES)}); remove it")
    return paths


def _encoded(path: Path) -> bytes:
    """Return the bytes to store; the image is decoded, so that damage is found now and not in the middle of a run."""
    try:
        content = path.read_bytes()
        with Image.open(io.BytesIO(content)) as image:
            image.load()
            shown = as_shown(image)
            if shown is image and image.format in _STORED_AS_THEY_ARE:
                return content
            if image.format != "JPEG":
                return encode_png(np.asarray(shown.convert("RGB")))
            buffer = io.BytesIO()
            shown.convert("RGB").save(buffer, "jpeg", quality=95)
            return buffer.getvalue()
    # Pillow raises many types for damaged files.
    except Exception as error:
        message = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        raise DataError(f"{path}: the image cannot be decoded ({message})") from None


def _some(names: list[str]) -> str:
    shown = ", ".join(map(repr, names[:_ENTRY_LIMIT]))
    return f"{shown} and {len(names) - _ENTRY_LIMIT} more" if len(names) > _ENTRY_LIMIT else shown
