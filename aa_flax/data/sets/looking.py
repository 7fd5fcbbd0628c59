"""Which kind of data set a folder of the user's own holds, found by looking into it.

Boxes are known by their files: COCO's JSON, Pascal VOC's XML, or YOLO's text files beside images; label maps by the
folders of photographs and PNGs of the same names. A folder without any of these has images in folders of classes.
"""

import mmap
import os
from collections.abc import Iterator
from pathlib import Path

from aa_flax.data.errors import DataError
from aa_flax.data.sets.coco_json import PREFIX as COCO
from aa_flax.data.sets.folder_layout import SUFFIXES, is_hidden, lay_out
from aa_flax.data.sets.image_folder import PREFIX as CLASSES
from aa_flax.data.sets.label_folder import PREFIX as MAPS
from aa_flax.data.sets.label_layout import lay_out_maps
from aa_flax.data.sets.voc import PREFIX as VOC
from aa_flax.data.sets.yolo import PREFIX as YOLO
from aa_flax.data.sets.yolo import has_lines, text_of

KINDS = tuple(prefix.rstrip("/") for prefix in (CLASSES, COCO, VOC, YOLO, MAPS))
"""The kinds that are told apart, as names of data sets begin with them."""
_WORDS = {
    CLASSES: "folders of classes",
    COCO: "boxes in COCO's JSON",
    VOC: "boxes in Pascal VOC's XML",
    YOLO: "boxes in YOLO's text files",
    MAPS: "label maps",
}
_DEPTH = 3  # of folders below the given one in which annotations are looked for
_SAMPLE = 100  # files of a kind that are looked into


def kind_of_files(folder: Path) -> str:
    """Return which kind a folder holds, one of `KINDS`.

    Raises:
        DataError: there is no such folder, no image in it, or no kind can be told; or there are signs of several, which
            are named.
    """
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder")
    files = {suffix: _below(folder, suffixes) for suffix, suffixes in _SUFFIXES.items()}
    if not files["image"] and not any(path.suffix.lower() in SUFFIXES for path in folder.rglob("*")):
        raise DataError(f"{folder}: no images in it or in the folders below")
    found = {COCO: _coco(files["json"]), VOC: _voc(files["xml"]), YOLO: _yolo(files["image"])}
    signs = {prefix: f"{_WORDS[prefix]} ({file.relative_to(folder)})" for prefix, file in found.items() if file}
    if pair := _maps(folder):
        signs[MAPS] = f"{_WORDS[MAPS]} ({pair.relative_to(folder)})"
    elif signs and (names := _classes(folder)):
        signs[CLASSES] = f"{_WORDS[CLASSES]} ({names})"
    if len(signs) > 1:
        several = " and ".join(signs.values())
        choices = ", ".join(prefix.rstrip("/") for prefix in signs)
        raise DataError(f"{folder}: holds {several}; say which is meant by its kind: {choices}")
    if not signs:
        lay_out(folder)  # raises for what is none of classes either
    return next(iter(signs), CLASSES).rstrip("/")


_SUFFIXES = {"image": SUFFIXES, "json": (".json",), "xml": (".xml",)}


def _below(folder: Path, suffixes: tuple[str, ...]) -> list[Path]:
    """Return the first files with such suffixes in a folder and in those below it, from above on."""
    found: list[Path] = []
    for level in range(_DEPTH + 1):
        for path in _at(folder, level):
            if path.suffix.lower() in suffixes and not is_hidden(path.relative_to(folder)):
                found.append(path)
                if len(found) == _SAMPLE:
                    return found
    return found


def _at(folder: Path, depth: int) -> Iterator[Path]:
    """Yield the files that lie so many folders below a folder, in the order of their names, a folder after another."""
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: os.fsencode(entry.name))
    except OSError as error:
        raise DataError(f"{folder}: cannot be read ({error.strerror or error})") from None
    for entry in entries:
        is_folder = _is_folder(entry)
        if depth and is_folder and not entry.name.startswith("."):
            yield from _at(Path(entry.path), depth - 1)
        elif not depth and not is_folder:
            yield Path(entry.path)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def _coco(files: list[Path]) -> Path | None:
    """Return the first file that has COCO's "images" and "annotations"; such a file may have a gigabyte."""
    for path in files:
        try:
            with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
                if content.find(b'"images"') >= 0 and content.find(b'"annotations"') >= 0:
                    return path
        except (OSError, ValueError):  # an empty file cannot be mapped
            continue
    return None


def _voc(files: list[Path]) -> Path | None:
    for path in files:
        try:
            with path.open("rb") as file:
                if b"<annotation" in file.read(1000):
                    return path
        except OSError:
            continue
    return None


def _yolo(images: list[Path]) -> Path | None:
    texts = (text_of(image) for image in images)
    return next((text for text in texts if text.is_file() and has_lines(text)), None)


def _maps(folder: Path) -> Path | None:
    try:
        splits = lay_out_maps(folder).splits
    except DataError:
        return None
    return next((pair.map for pairs in splits.values() for pair in pairs), None)


def _classes(folder: Path) -> str:
    """Return names of classes by folders, "" if there are none."""
    try:
        names = [*lay_out(folder).splits["train"]]
    except DataError:
        return ""
    return ", ".join([*names[:3], *["..."] * (len(names) > 3)])
