"""Folders of images as people have them: which files belong to which class of which split.

torchvision's `ImageFolder` is the convention: the folders of a split are its classes, and the images at any depth below
one belong to it. Splits, and folders that hold images beside annotations, are known by their names.
"""

import collections
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from aa_flax.data.errors import DataError
from aa_flax.literal import quoted

SUFFIXES = (
    *(
        ".jpg",
        ".jpeg",
        ".jpe",
        ".jfif",
        ".mpo",
        ".png",
        ".webp",
        ".avif",
        ".bmp",
        ".gif",
        ".tif",
        ".tiff",
        ".ppm",
        ".pgm",
    ),
)
"""The names of images end in one of these, in small letters or capitals."""
_SPLITS = {
    **{name: name for name in ("train", "val", "valid", "validation", "test")},
    "training": "train",
    "testing": "test",
}
_OF_IMAGES = frozenset(("data", "image", "images", "img", "imgs", "jpegimages", "photo", "photos", "pictures"))
_OF_ANNOTATIONS = frozenset(
    ("annotation", "annotations", "label", "labels", "list", "lists", "mask", "masks", "segmentations", "trimaps")
)
_OF_SYSTEMS = frozenset(("__MACOSX", "@eaDir", "$RECYCLE.BIN", "System Volume Information", "lost+found"))
_KINDS = 5  # kinds of files named in a message

Classes = dict[str, list[Path]]
"""The files of each class, sorted, by the name of the class."""


@dataclass(frozen=True)
class FolderLayout:
    """The images of a folder.

    Attributes:
        splits: the classes of each split.
        left_out: one line about the files that belong to no class of a split, "" if there are none.
    """

    splits: dict[str, Classes]
    left_out: str


@dataclass(frozen=True)
class _Folder:
    """A folder and what lies in it, without what is hidden."""

    path: Path
    folders: list["_Folder"]
    images: list[Path]
    others: list[Path]

    @property
    def name(self) -> str:
        return name_of(self.path)

    def below(self) -> Iterator["_Folder"]:
        """Yield this folder and all below it."""
        yield self
        for folder in self.folders:
            yield from folder.below()

    def all_images(self) -> list[Path]:
        return sorted(path for folder in self.below() for path in folder.images)

    def has_images(self) -> bool:
        return any(folder.images for folder in self.below())


def lay_out(folder: Path) -> FolderLayout:
    """Return the splits, classes and files of a folder.

    Raises:
        DataError: the folder cannot be read, has no classes, or its splits differ in their classes.
    """
    if not folder.is_dir():
        raise DataError(f"{folder}: expected a folder with a folder of images for each class")
    scanned = _scanned(folder, ())
    root = _unwrapped(scanned)
    splits = _splits(root)
    found = {name: _classes(split, name == "train") for name, split in splits.items()}
    train = found["train"]
    beside = [child.name for child in root.folders if child.has_images() and child not in splits.values()]
    notes = [f"the folders {quoted(beside)}"] if beside and root not in splits.values() else []
    for name, classes in list(found.items()):
        if len(classes) < 2 and not classes.keys() & train.keys():
            notes.append(f"the split {name!r}, whose images have no classes")
            del found[name]
        elif differing := sorted(classes.keys() ^ train.keys()):
            raise DataError(f"{folder}: 'train' and {name!r} differ in their classes: {quoted(differing)}")
    return FolderLayout(found, _left_out(scanned, found, notes))


def name_of(path: Path) -> str:
    """Return the last name of a path, the same in every locale: bytes that are no UTF-8 are lone surrogates."""
    return os.fsencode(path.name).decode("utf-8", "surrogateescape")


def is_hidden(path: Path) -> bool:
    """Return whether a file or folder is left alone: by the dot of its name, or because a system has put it there."""
    return path.name.startswith(".") or not _OF_SYSTEMS.isdisjoint(path.parts)


def _scanned(folder: Path, above: tuple[str, ...]) -> _Folder:
    """Return a folder with all below it; links to folders are followed, except to one that it lies in."""
    above = (*above, os.path.realpath(folder))
    found = _Folder(folder, [], [], [])
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: os.fsencode(entry.name))
    except OSError as error:
        raise DataError(f"{folder}: cannot be read ({error.strerror or error})") from None
    for entry in entries:
        path = folder / entry.name
        if entry.name.startswith("."):
            continue
        if is_kind(entry.is_dir):
            if entry.name not in _OF_SYSTEMS and os.path.realpath(path) not in above:
                found.folders.append(_scanned(path, above))
        # A link that leads nowhere is an image that cannot be read.
        elif path.suffix.lower() in SUFFIXES and (is_kind(entry.is_file) or entry.is_symlink()):
            found.images.append(path)
        else:
            found.others.append(path)
    return found


def is_kind(kind: Callable[[], bool]) -> bool:
    """Return whether a path is of a kind, such as `path.is_file`.

    A link to itself is of none, and neither is a name that no file can have, which annotations may give.
    """
    try:
        return kind()
    except (OSError, ValueError):
        return False


def _words(folder: _Folder) -> set[str]:
    return _words_of(folder.name)


def _words_of(name: str) -> set[str]:
    return set(re.findall(r"[a-z]+", name.casefold()))


def split_spelled(name: str) -> str:
    """Return the split that a name spells, as `Train`, `seg_train` and `training-set` do; "" if none or several."""
    named = _words_of(name) & _SPLITS.keys()
    return _SPLITS[named.pop()] if len(named) == 1 else ""


def _split_name(folder: _Folder) -> str:
    return split_spelled(folder.name)


def _unwrapped(folder: _Folder) -> _Folder:
    """Return the folder that has the classes or splits, where a folder holds one alone or beside annotations.

    Raises:
        DataError: images lie beside annotations, without folders of classes.
    """
    while True:
        annotations = [child for child in folder.folders if _words(child) & _OF_ANNOTATIONS]
        others = [child for child in folder.folders if child not in annotations]
        inside = [child for child in others if _words(child) & _OF_IMAGES] or others
        beside = [child for child in folder.folders if child not in inside]
        if len(inside) != 1 or any(child.has_images() and child not in annotations for child in beside):
            return folder
        (child,) = inside
        if not _words(child) & _OF_IMAGES and any(other.images for other in beside):
            return folder  # "masks" beside a folder that is not called "images" is a class
        if not any(below.has_images() for below in child.folders):
            if child.has_images() and any(other.has_images() for other in beside):
                names = quoted([other.name for other in beside])
                raise DataError(f"{child.path}: no folders of classes; what lies beside it, {names}, are annotations")
            return folder
        if _split_name(child) and not _split_name(folder):
            return folder
        folder = child


def _splits(root: _Folder) -> Mapping[str, _Folder]:
    """Return the folder of each split, by its name; where none is named, all is "train"."""
    named: dict[str, list[_Folder]] = collections.defaultdict(list)
    for child in root.folders:
        if name := _split_name(child):
            named[name].append(child)
    # A folder of images called "train", beside others that are called otherwise, is a class of vehicles.
    otherwise = any(child.has_images() and not _split_name(child) for child in root.folders)
    if not named or (otherwise and not any(_has_classes(child) for some in named.values() for child in some)):
        return {"train": root}
    for name, some in named.items():
        if len(some) > 1:
            raise DataError(f"{root.path}: {quoted([c.name for c in some])} are all the split {name!r} by their names")
    if "train" not in named:
        raise DataError(f"{root.path}: no folder 'train' beside {quoted([some[0].name for some in named.values()])}")
    return {name: some[0] for name, some in named.items()}


def _has_classes(folder: _Folder) -> bool:
    return sum(child.has_images() for child in _unwrapped(folder).folders) > 1


def _classes(split: _Folder, needed: bool) -> Classes:
    """Return the files of each class of a split, by the names of folders or as Tiny ImageNet's file says.

    Args:
        split: the folder of the split.
        needed: whether a split without classes is an error.

    Raises:
        DataError: fewer than two classes that are needed, or a class without images.
    """
    listing = [path for path in split.others if path.name.endswith("_annotations.txt")]
    if listing and len(split.folders) <= 1:
        return _listed(split, listing[0])
    split = _unwrapped(split)
    classes = {child.name: child.all_images() for child in split.folders}
    if len(classes) < 2:
        bare = f", and {len(split.images):,} images in none" if split.images else ""
        if needed:
            raise DataError(f"{split.path}: {len(classes)} folders of classes, expected at least 2{bare}")
    elif empty := [name for name, paths in classes.items() if not paths]:
        held = _kinds(child for child in split.folders if child.name in empty)
        raise DataError(f"{split.path}: no image in the class {quoted(empty)}{f', only {held}' if held else ''}")
    return dict(sorted(classes.items()))


def _listed(split: _Folder, listing: Path) -> Classes:
    """Return the files of each class as a file says, which has the name of an image and its class first in each line.

    Raises:
        DataError: the file cannot be read or names an image that is not there, or an image is not in it.
    """
    files = {path.name: path for path in split.all_images()}
    classes: Classes = collections.defaultdict(list)
    try:
        text = listing.read_text("utf-8", "surrogateescape")
    except OSError as error:
        raise DataError(f"{listing}: cannot be read ({error.strerror or error})") from None
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        name, _, rest = line.partition("\t")
        label = rest.split("\t")[0]
        if not label or (path := files.pop(name, None)) is None:
            raise DataError(f"{listing}: line {number}: expected an image of {split.path}, a tab and its class")
        classes[label].append(path)
    if files:
        raise DataError(f"{listing}: no class for {quoted(sorted(files))}")
    return {name: sorted(classes[name]) for name in sorted(classes)}


def _left_out(root: _Folder, splits: Mapping[str, Classes], notes: list[str]) -> str:
    """Return one line about the files in no class of a split, and what else is left out."""
    used = {path for classes in splits.values() for paths in classes.values() for path in paths}
    unused = [path for folder in root.below() for path in folder.images if path not in used]
    kinds = _kinds([root], unused)
    if not kinds:
        return ""
    count = len(unused) + sum(len(folder.others) for folder in root.below())
    return f"{root.path}: files left out: {count:,} ({'; '.join([kinds, *notes])})"


def _kinds(folders: Iterable[_Folder], more: Iterable[Path] = ()) -> str:
    """Return how many files there are of each kind among those that are no images by their names, and `more`."""
    kinds = collections.Counter(
        path.suffix.lower() or "without a suffix"
        for path in [*(path for folder in folders for below in folder.below() for path in below.others), *more]
    )
    some = [f"{count:,} {kind}" for kind, count in kinds.most_common(_KINDS)]
    return ", ".join([*some, f"{len(kinds) - len(some)} other kinds"] if len(kinds) > len(some) else some)
