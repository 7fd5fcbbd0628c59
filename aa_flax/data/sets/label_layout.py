"""Folders of photographs with a label map each: which files belong together, and to which split.

    images/SPLIT/*.jpg and annotations/SPLIT/*.png      as ADE20k has them; also labels/, masks/, img_dir/ and ann_dir/
    SPLIT/*.jpg and SPLITannot/*.png                    as CamVid has them; also SPLIT_labels/ and the like
    SPLIT/images/*.jpg and SPLIT/masks/*.png
    images/*.jpg and masks/*.png                        one split, train

A map is a PNG with the name of its photograph, at any depth below. Splits are called by the names of their folders,
"training" is "train".
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from aa_flax.data.errors import DataError
from aa_flax.data.sets.folder_layout import SUFFIXES, is_hidden, name_of, split_spelled

_IMAGES = frozenset(("images", "image", "imgs", "img", "img_dir", "jpegimages", "photos"))
_MAPS = frozenset(
    ("annotations", "annotation", "annot", "ann_dir", "labels", "label", "masks", "mask", "segmentationclass")
)
_ENDINGS = tuple(f"{between}{name}" for between in ("", "_", "-") for name in sorted(_MAPS))
_EXPECTED = (
    "images/train/*.jpg and annotations/train/*.png as ADE20k has them, or train/*.jpg and trainannot/*.png as CamVid "
    "has them"
)


@dataclass(frozen=True)
class Pair:
    """A photograph and its label map."""

    photo: Path
    map: Path


@dataclass(frozen=True)
class LabelLayout:
    """The files of a folder.

    Attributes:
        splits: the pairs of each split, by its name, in the order of their names.
        without_map: photographs beside maps that have none.
        without_photo: maps that have no photograph.
        left_out: folders of photographs for which there is no folder of maps.
    """

    splits: dict[str, list[Pair]]
    without_map: list[Path]
    without_photo: list[Path]
    left_out: list[Path]


def lay_out_maps(folder: Path) -> LabelLayout:
    """Return the photographs and label maps of a folder by their splits.

    Raises:
        DataError: the folder cannot be read, or has none of the forms of this module's docstring; or two of its folders
            are one split by their names.
    """
    if not folder.is_dir():
        raise DataError(f"{folder}: expected a folder with {_EXPECTED}")
    root = _unwrapped(folder)
    layout, places = LabelLayout({}, [], [], []), dict[str, Path]()
    for split, photos, maps in _places(root):
        if maps is None:
            layout.left_out.append(photos)
            continue
        if split in places:
            raise DataError(f"{folder}: {places[split]} and {photos} are both the split {split!r} by their names")
        places[split] = photos
        layout.splits[split] = _pairs(photos, maps, layout)
    if not layout.splits:
        raise DataError(f"{folder}: no photographs with label maps; expected {_EXPECTED}")
    return layout


def _unwrapped(folder: Path) -> Path:
    """Return the folder that holds the files, where one holds another alone."""
    while True:
        inside = _folders(folder)
        if len(inside) != 1 or inside[0].name.casefold() in _IMAGES:
            return folder
        folder = inside[0]


def _places(root: Path) -> Iterator[tuple[str, Path, Path | None]]:
    """Yield the name of each split, the folder of its photographs, and that of its maps, None if there is none."""
    folders = {name_of(path).casefold(): path for path in _folders(root)}
    images = next((path for name, path in folders.items() if name in _IMAGES), None)
    maps = next((path for name, path in folders.items() if name in _MAPS), None)
    if images is not None and maps is not None:
        inside = [path for path in _folders(images) if (maps / path.name).is_dir()]
        if not inside:
            yield "train", images, maps
        for path in _folders(images) if inside else ():
            yield _split(path), path, maps / path.name if path in inside else None
        return
    for name, path in folders.items():
        beside = next((folders[name + ending] for ending in _ENDINGS if name + ending in folders), None)
        within = {name_of(child).casefold(): child for child in _folders(path)}
        own = next((child for each, child in within.items() if each in _IMAGES), None)
        own_maps = next((child for each, child in within.items() if each in _MAPS), None)
        if beside is not None:
            yield _split(path), path, beside
        elif own is not None:
            yield _split(path), own, own_maps
        elif not name.endswith(tuple(_MAPS)) and any(_files(path, SUFFIXES)):
            yield _split(path), path, None


def _pairs(photos: Path, maps: Path, layout: LabelLayout) -> list[Pair]:
    """Return the pairs of two folders, and add what is left over to the layout."""
    of_maps = {path.relative_to(maps).with_suffix(""): path for path in _files(maps, (".png",))}
    pairs = []
    for photo in _files(photos, SUFFIXES):
        found = of_maps.pop(photo.relative_to(photos).with_suffix(""), None)
        if found is None:
            layout.without_map.append(photo)
        else:
            pairs.append(Pair(photo, found))
    layout.without_photo.extend(of_maps.values())
    return pairs


def _split(folder: Path) -> str:
    """Return the name of a split by that of its folder, in letters, digits and underscores."""
    name = name_of(folder)
    return split_spelled(name) or re.sub(r"\W", "_", name, flags=re.ASCII)


def _folders(folder: Path) -> list[Path]:
    try:
        return sorted(path for path in folder.iterdir() if not is_hidden(path) and path.is_dir())
    except OSError as error:
        raise DataError(f"{folder}: cannot be read ({error.strerror or error})") from None


def _files(folder: Path, suffixes: tuple[str, ...]) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.suffix.lower() in suffixes and not is_hidden(path))
