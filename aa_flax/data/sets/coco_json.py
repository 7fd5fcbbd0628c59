"""COCO's JSON with folders of images: `coco_json/NAME`.

    FOLDER/annotations/instances_train2017.json and FOLDER/train2017/*.jpg      as COCO is
    FOLDER/train/_annotations.coco.json and FOLDER/train/*.jpg                  as Roboflow exports
    FOLDER/train.json and FOLDER/images/*.jpg                                   a file for each split, images anywhere

The split of a file is what its name spells, or else its folder's: train, val, test and so on. Classes are the file's
categories in the order of their ids, which may have gaps. Files of captions, keypoints and panoptic masks are left out.
A file that has images and no "annotations" is of photographs to be detected on: it has no score.
"""

import collections
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeGuard

from aa_flax.data.errors import DataError
from aa_flax.data.sets.annotations import Annotated, Annotation, Photo, Split
from aa_flax.data.sets.coco_categories import agreed_categories, is_integer
from aa_flax.data.sets.detection import DetectionFolder
from aa_flax.data.sets.findings import Findings
from aa_flax.data.sets.folder_layout import SUFFIXES, is_kind, split_spelled
from aa_flax.data.sets.mask_checks import checked_segmentation
from aa_flax.literal import quoted

PREFIX = "coco_json/"
_OTHER_KINDS = ("captions_", "person_keypoints_", "panoptic_", "stuff_")
_DEPTH = 3  # of folders below the given one in which images are looked for
_SAMPLE = 50  # images by which the folder of a split's images is found
_FIRST = 3  # about as many of these are looked for first


class CocoJson(DetectionFolder):
    """Photographs with annotations in COCO's JSON."""

    prefix = PREFIX

    def _read(self, folder: Path, findings: Findings) -> Annotated:
        documents = _documents(folder, findings)
        categories = agreed_categories(documents, findings)
        findings.require_none()
        labels = {number: label for label, number in enumerate(categories)}
        places = [folder, *_folders(folder, _DEPTH)]
        splits = {
            name: _split(name, path, document, labels, folder, places, findings)
            for name, (path, document) in documents.items()
        }
        _note_unlisted(splits.values(), findings)
        files = [path for path, _ in documents.values()]
        return Annotated(splits, list(categories.values()), list(categories), "annotation", False, files)


def _documents(folder: Path, findings: Findings) -> dict[str, tuple[Path, dict[str, Any]]]:
    """Return the path and content of the file of each split."""
    if not folder.is_dir():
        raise DataError(f"{folder}: expected a folder with COCO's JSON and images")
    found: list[tuple[Path, dict[str, Any]]] = []
    for pattern in ("*.json", "*/*.json", "*/*/*.json"):
        for path in sorted(folder.glob(pattern)):
            if path.name.startswith(_OTHER_KINDS) or any(
                part.startswith(".") for part in path.relative_to(folder).parts
            ):
                continue
            if (document := _read_json(path)) is not None:
                found.append((path, document))
            else:
                findings.note("JSON files without a list of images, left out", str(path))
        if found and pattern != "*.json":
            break
    if not found:
        raise DataError(
            f'{folder}: no COCO JSON (a file .json with "images") in it or in the folders below; expected '
            "annotations/instances_train2017.json, or train/_annotations.coco.json, or train.json"
        )
    documents: dict[str, tuple[Path, dict[str, Any]]] = {}
    for path, document in found:
        name = _split_name(path, folder) or ("train" if len(found) == 1 else _stem(path))
        if name in documents:
            raise DataError(f"{documents[name][0]} and {path.relative_to(folder)} are both the split {name!r}")
        documents[name] = path, document
    return dict(sorted(documents.items(), key=lambda item: (item[0] != "train", item[0] == "test", item[0])))


def _read_json(path: Path) -> dict[str, Any] | None:
    """Return the content of a file of COCO, None if it is of another kind."""
    try:
        document = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path}: cannot be read as JSON ({error})") from None
    if not isinstance(document, dict) or not isinstance(document.get("images"), list):
        return None
    for key in ("annotations", "categories"):
        if not isinstance(document.get(key, []), list):
            raise DataError(f"{path}: {key!r} is no list")
    return document


def _split_name(path: Path, folder: Path) -> str:
    """Return the split that a file's name spells, or else its folder's; "" if neither does."""
    stem = path.name.partition(".")[0]
    if spelled := split_spelled(stem):
        return f"{spelled}_dev" if re.search(r"\bdev|_dev", stem.casefold()) else spelled
    return split_spelled(path.parent.name) if path.parent != folder else ""


def _stem(path: Path) -> str:
    return re.sub(r"\W+", "_", path.stem.removeprefix("instances_"), flags=re.ASCII).strip("_") or "train"


def _split(
    name: str,
    path: Path,
    document: Mapping[str, Any],
    labels: Mapping[int, int],
    folder: Path,
    places: Sequence[Path],
    findings: Findings,
) -> Split:
    """Return the photographs of one file."""
    photos: dict[int, Photo] = {}
    names = [str(image.get("file_name")) for image in document["images"] if isinstance(image, dict)]
    base, bare = _folder_of(names, [path.parent, *places], name)
    for number, image in enumerate(document["images"]):
        key, file = (image.get(k) for k in ("id", "file_name")) if isinstance(image, dict) else (None, None)
        if not is_integer(key) or not isinstance(file, str) or not file:
            findings.fault("images", f"{path}: image {number} needs an integer id and a file_name, got {image!r:.200}")
        elif key in photos:
            findings.fault("image ids", f"{path}: two images have the id {key}: {quoted([photos[key].name, file])}")
        else:
            photos[key] = Photo(base / _relative(file, bare), file, key, _size(image), [], path)
    _annotate(path, document.get("annotations", []), photos, labels, findings)
    return Split(list(photos.values()), "annotations" in document)


def _annotate(
    path: Path, annotations: Sequence[Any], photos: Mapping[int, Photo], labels: Mapping[int, int], findings: Findings
) -> None:
    """Give the photographs of a file their objects."""
    given = [each.get("id") if isinstance(each, dict) else None for each in annotations]
    ids = [each for each in given if is_integer(each) and each > 0]
    if len({*ids}) < len(annotations):
        what = "files with annotations of id 0, of the same id or of none, all of which are numbered again from 1"
        findings.note(what, str(path))
        ids = list(range(1, len(annotations) + 1))
    for number, each in enumerate(annotations):
        if not isinstance(each, dict):
            findings.fault(
                "annotations", f"{path}: annotation {number} (counted from 0) is no dictionary: {each!r:.80}"
            )
            continue
        place = f"{path}: annotation {ids[number]}"
        image, box, category = each.get("image_id"), each.get("bbox"), each.get("category_id")
        photo = photos.get(image) if is_integer(image) else None
        if photo is None:
            findings.fault("images not listed", f"{place} is of image {image!r}, which is not listed")
        elif not is_integer(category) or category not in labels:
            findings.fault("categories not listed", f"{place} has the category {category!r}, which is not listed")
        elif not isinstance(box, list) or len(box) != 4 or not all(map(_is_number, box)):
            findings.fault("boxes", f"{place}: bbox is {box!r:.80}, expected x, y, width, height")
        else:
            x, y, width, height = map(float, box)
            area: Any = each.get("area")
            area = float(area) if _is_number(area) and area >= 0 else None
            if area is None:
                findings.note("annotations without an area, which get that of their boxes", place)
            if "iscrowd" not in each:
                findings.note("annotations that do not say iscrowd, taken as 0", place)
            photo.objects.append(
                Annotation(
                    box=(x, y, x + width, y + height),
                    label=labels[category],
                    number=ids[number],
                    id=ids[number],
                    crowd=each.get("iscrowd", 0) == 1,
                    area=area,
                    segmentation=checked_segmentation(each.get("segmentation"), photo.size, area, place, findings),
                )
            )


def _size(image: Mapping[str, Any]) -> tuple[int, int] | None:
    height, width = image.get("height"), image.get("width")
    if not _is_number(height) or not _is_number(width):
        return None
    return (int(height), int(width)) if 1 <= height < 2**31 and 1 <= width < 2**31 else None


def _is_number(value: Any) -> TypeGuard[int | float]:
    return is_integer(value) or isinstance(value, float)


def _folders(folder: Path, depth: int) -> Iterator[Path]:
    """Yield the folders below a folder, to a depth, without those that are hidden."""
    try:
        inside = sorted(Path(entry.path) for entry in os.scandir(folder) if entry.is_dir() and entry.name[0] != ".")
    except OSError:
        return
    for each in inside:
        yield each
        if depth > 1:
            yield from _folders(each, depth - 1)


def _folder_of(names: Sequence[str], places: Sequence[Path], split: str) -> tuple[Path, bool]:
    """Return the folder in which the most of some images lie, and whether by their bare names.

    Among several, the one whose name spells the split comes first.
    """
    some = names[:: max(1, len(names) // _SAMPLE)]
    ways = [(place, bare) for place in places for bare in (False, True)]
    likely = [way for way in ways if _count_there(some[:: max(1, len(some) // _FIRST)], *way)]

    def fitness(way: tuple[Path, bool]) -> tuple[int, bool, bool]:
        place, bare = way
        return _count_there(some, *way), split_spelled(place.name) == split, not bare

    return max(likely or ways, key=fitness)  # the first of the best


def _count_there(names: Sequence[str], place: Path, bare: bool) -> int:
    return sum(is_kind((place / _relative(name, bare)).is_file) for name in names)


def _relative(name: str, bare: bool) -> str:
    """Return a file name as a path inside a folder, or its last part.

    A path from another machine, or one that leads out of the folder, has only its last part.
    """
    name = name.replace("\\", "/")
    return name.rpartition("/")[2] if bare or name.startswith("/") or ".." in name.split("/") else name


def _note_unlisted(splits: Iterable[Split], findings: Findings) -> None:
    """Note the images beside those that are listed, which no file of annotations lists."""
    listed = collections.defaultdict(set)
    for split in splits:
        for photo in split.photos:
            listed[photo.path.parent].add(photo.path.name)
    for folder, names in listed.items():
        for name in sorted({path.name for path in folder.iterdir()} - names) if folder.is_dir() else ():
            if Path(name).suffix.lower() in SUFFIXES and not name.startswith("."):
                findings.note("images that no file of annotations lists, left out", str(folder / name))
