"""YOLO's text files with folders of images: `yolo/NAME`.

    FOLDER/images/train/*.jpg and FOLDER/labels/train/*.txt      as Ultralytics has them
    FOLDER/train/images/*.jpg and FOLDER/train/labels/*.txt      as Roboflow exports
    FOLDER/images/*.jpg and FOLDER/labels/*.txt                  one split, train; also with the .txt beside the images

A line is the number of a class, then the centre's x and y, width and height, as parts of the photograph's width and
height; or else the corners of a polygon, which is kept, and whose box is taken. An empty or missing .txt is a
photograph without objects. A .yaml may name the classes and the folders; else a file classes.txt or obj.names has the
names, one a line, or they are the classes' numbers.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from aa_flax.data.errors import DataError
from aa_flax.data.sets.annotations import Annotated, Annotation, Photo, Split
from aa_flax.data.sets.detection import DetectionFolder
from aa_flax.data.sets.findings import Findings
from aa_flax.data.sets.folder_layout import SUFFIXES, is_hidden, is_kind, split_spelled
from aa_flax.json_values import to_json
from aa_flax.literal import quoted

PREFIX = "yolo/"
_NAMES = ("classes.txt", "obj.names", "_darknet.labels")
_KEYS = {"train": "train", "val": "val", "valid": "valid", "validation": "validation", "test": "test"}
_MOST = 10_000  # classes, where nothing names them
_SLACK = 0.01  # by which numbers may leave 0..1, as tools round


class Yolo(DetectionFolder):
    """Photographs with a text file of YOLO's form each."""

    prefix = PREFIX

    def _read(self, folder: Path, findings: Findings) -> Annotated:
        if not folder.is_dir():
            raise DataError(f"{folder}: expected a folder with images/ and labels/")
        description = _description(folder)
        images = _named_images(folder, description, findings) or _images(folder)
        if not any(images.values()):
            raise DataError(
                f"{folder}: no images; expected images/train/*.jpg and labels/train/*.txt, or train/images/*.jpg and "
                "train/labels/*.txt"
            )
        names, files = _class_names(folder, description), []
        splits = {}
        for split, paths in images.items():
            photos = [Photo(path, path.name, number, None, [], text_of(path)) for number, path in enumerate(paths, 1)]
            texts = [photo.source for photo in photos if is_kind(photo.source.is_file)]
            if not texts and split == "train":
                raise DataError(f"{photos[0].source}: no such file, nor one for another image of 'train'")
            for photo in photos if texts else ():
                _annotate(photo, names, findings)
            bare = {photo.source for photo in photos} - {*texts} if texts else set()
            for photo in photos if bare else ():
                if photo.source in bare:
                    findings.note(f"images of {split} without a .txt, taken as without objects", photo.name)
            files += texts
            splits[split] = Split(photos, bool(texts))
        _note_texts_without_images(files, findings)
        data = Annotated(splits, names or [], [], "line", True, files)
        if names is None:
            most = max((each.label for _, each in data.objects()), default=0)
            data.class_names = [str(number) for number in range(most + 1)]
            findings.note("class names that nothing says, so that they are numbers", str(folder))
        data.category_ids = list(range(len(data.class_names)))
        for number, (_, each) in enumerate(data.objects(), 1):
            each.id = number
        return data


def _note_texts_without_images(texts: Sequence[Path], findings: Findings) -> None:
    """Note the files of lines beside those of images that belong to no image."""
    of_images, others = {*texts}, {*_NAMES}
    for folder in sorted({text.parent for text in texts}):
        for path in sorted(folder.glob("*.txt")):
            # A list of files, which may lie beside them, has no lines of numbers.
            if path not in of_images and path.name not in others and has_lines(path):
                findings.note("texts of no image that is read, left out", str(path))


def has_lines(text: Path) -> bool:
    """Return whether a file begins with a line of an object; an empty one says nothing."""
    try:
        first = text.read_text("utf-8-sig").split("\n", 1)[0].split()
        return len([float(word) for word in first]) >= 5
    except (OSError, ValueError):
        return False


def _description(folder: Path) -> Mapping[str, Any]:
    """Return what the .yaml of a folder says, all scalars as text; empty if there is none that names classes.

    Raises:
        DataError: it cannot be read, or there are several.
    """
    found = {}
    for path in sorted(path for path in folder.iterdir() if path.suffix.lower() in (".yaml", ".yml")):
        try:
            # Without types, so that a class "no" stays text.
            content = yaml.load(path.read_bytes(), Loader=yaml.BaseLoader)
        except (OSError, ValueError, yaml.YAMLError) as error:
            raise DataError(f"{path}: cannot be read as YAML ({' '.join(str(error).split())})") from None
        if isinstance(content, dict) and "names" in content:
            found[path] = content
    if len(found) > 1:
        raise DataError(f"{folder}: several files name classes: {quoted([path.name for path in found])}; keep one")
    return next(iter(found.values()), {})


def _class_names(folder: Path, description: Mapping[str, Any]) -> list[str] | None:
    """Return the names of the classes, None if nothing says them.

    Raises:
        DataError: they are no list of names, one is empty, or two classes have one.
    """
    names, place = description.get("names"), f"{folder}: the yaml"
    if isinstance(names, dict):  # number: name
        if {*names} != {str(number) for number in range(len(names))}:
            raise DataError(
                f"{folder}: the yaml's names have the numbers {quoted(list(names), 9)}, expected 0, 1, 2 ..."
            )
        names = [names[str(number)] for number in range(len(names))]
    if names is None:
        path = next((folder / name for name in _NAMES if (folder / name).is_file()), None)
        if path is None:
            return None
        # Lines between names count, because the numbers of the classes are those of the lines.
        text, place = path.read_text("utf-8-sig", "surrogateescape"), str(path)
        names = [line.strip() for line in text.rstrip().splitlines()]
    if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
        raise DataError(f"{folder}: the names of the classes are {names!r:.200}, expected a list of them")
    if empty := [str(number) for number, name in enumerate(names) if not name.strip()]:
        raise DataError(f"{place} names {len(names)} classes, and the name of class {', '.join(empty)} is empty")
    if len({*names}) < len(names):
        twice = ", ".join(
            f"{quoted([name])} to {' and '.join(str(k) for k, other in enumerate(names) if other == name)}"
            for name in sorted({name for name in names if names.count(name) > 1})
        )
        raise DataError(f"{place} gives a name to two classes: {twice}; each class needs a name of its own")
    return list(names)


def _named_images(folder: Path, description: Mapping[str, Any], findings: Findings) -> dict[str, list[Path]]:
    """Return the images of each split where a .yaml says they are; empty if that is not in this folder."""
    images: dict[str, list[Path]] = {}
    for key in _KEYS:
        places = description.get(key) or []
        for place in [places] if isinstance(places, str) else places:
            found = _found(folder, str(description.get("path") or ""), place)
            if found is None:
                findings.note("places that the yaml names and that are not in this folder", f"{key}: {place}")
                return {}
            images[key] = sorted({*images.get(key, []), *found})
    return {key: paths for key, paths in images.items() if paths}


def _found(folder: Path, root: str, place: str) -> list[Path] | None:
    """Return the images of a folder or a list of files that a .yaml names, None if there is no such place."""
    inside = place.replace("\\", "/").lstrip("./")  # exports name ../train/images from a folder that is not there
    for candidate in (folder / place, folder / root / place, folder / inside):
        if is_kind(candidate.is_dir):
            return _below(candidate)
        if candidate.suffix == ".txt" and is_kind(candidate.is_file):
            lines = candidate.read_text("utf-8", "surrogateescape").split("\n")
            return [candidate.parent / line.strip() for line in lines if line.strip()]
    return None


def _images(folder: Path) -> dict[str, list[Path]]:
    """Return the images of each split by the names of folders."""
    root = folder / "images" if (folder / "images").is_dir() else folder
    inside = [path for path in sorted(root.iterdir()) if path.is_dir() and not is_hidden(path)]
    splits = {split: _below(path) for path in inside if (split := split_spelled(path.name))}
    return {split: paths for split, paths in splits.items() if paths} or {"train": _below(root)}


def _below(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES and not is_hidden(path))


def text_of(image: Path) -> Path:
    """Return the text file of an image: in the folder "labels" that stands for the last one called "images"."""
    parts = list(image.parent.parts)
    if "images" in parts:
        place = len(parts) - 1 - parts[::-1].index("images")
        text = Path(*parts[:place], "labels", *parts[place + 1 :], f"{image.stem}.txt")
        if is_kind(text.is_file) or is_kind(text.parent.is_dir):
            return text
    return image.with_suffix(".txt")


def _annotate(photo: Photo, names: Sequence[str] | None, findings: Findings) -> None:
    """Give a photograph the objects of its text file, if there is one."""
    try:
        text = photo.source.read_text("utf-8-sig")
    except FileNotFoundError:
        return
    except (OSError, ValueError) as error:
        findings.fault("texts", f"{photo.source}: cannot be read ({error})")
        return
    for number, line in enumerate(text.splitlines(), 1):
        place = f"{photo.source}: line {number}"
        if not line.strip():
            continue
        try:
            label, *values = map(float, line.split())
        except ValueError:
            findings.fault("lines", f"{place} is {line!r:.80}, expected a class and numbers")
            continue
        polygon = len(values) >= 6 and len(values) % 2 == 0
        if len(values) != 4 and not polygon:
            findings.fault("lines", f"{place} has {1 + len(values)} numbers, expected a class, x, y, width and height")
        elif not 0 <= label < (len(names) if names else _MOST) or label != int(label):
            of = f" of {len(names)} classes, {quoted(names)}" if names else ""
            findings.fault("classes", f"{place} has the class {label:g}{of}, expected 0, 1, 2 ...")
        elif not all(-_SLACK <= value <= 1 + _SLACK for value in values):
            what = "parts of the photograph's width and height, 0 to 1; pixels are divided by these"
            findings.fault("numbers", f"{place} is {line.strip()!r:.80}, expected {what}")
        else:
            photo.objects.append(_object(int(label), values, number))


def _object(label: int, values: list[float], number: int) -> Annotation:
    if len(values) == 4:
        x, y, width, height = values
        return Annotation((x - width / 2, y - height / 2, x + width / 2, y + height / 2), label, number, 0)
    xs, ys = values[::2], values[1::2]
    turned = zip(xs, ys, xs[1:] + xs[:1], ys[1:] + ys[:1], strict=True)
    area = abs(sum(x * next_y - next_x * y for x, y, next_x, next_y in turned)) / 2
    box = min(xs), min(ys), max(xs), max(ys)
    return Annotation(box, label, number, 0, area=area, segmentation=to_json([values]))
