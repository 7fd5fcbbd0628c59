"""Pascal VOC's XML with folders of images: `voc/NAME`.

    FOLDER/Annotations/*.xml, FOLDER/JPEGImages/*.jpg and FOLDER/ImageSets/Main/{train,val,test}.txt
    FOLDER/train/*.xml and *.jpg, FOLDER/valid/..., FOLDER/test/...                as Roboflow exports
    FOLDER/*.xml and *.jpg                                                         one split, train

Without lists, all is "train". A list "trainval" is left out beside "train" and "val": "train+val" reads the same.
Classes are the names of the objects, sorted. An object marked as difficult is not trained on and does not count in
scores, as a crowd of COCO.

Boxes are taken as they stand, edges counted from 0 as labelImg, Roboflow and CVAT write them. Only the files of Pascal
VOC itself, which name "The VOC... Database" as their source, have numbers of pixels counted from 1, the last one
included: there 1 is taken from xmin and ymin.
"""

import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path

from aa_flax.data.errors import DataError
from aa_flax.data.sets.annotations import Annotated, Annotation, Photo, Split
from aa_flax.data.sets.detection import DetectionFolder
from aa_flax.data.sets.findings import Findings
from aa_flax.data.sets.folder_layout import SUFFIXES, is_hidden, is_kind, split_spelled
from aa_flax.literal import quoted

PREFIX = "voc/"
_IMAGES = ("JPEGImages", "images", "Images")
_OF_VOC = re.compile(r"\s*The VOC\d{4} Database")
_LISTS = ("train", "val", "test", "trainval")


class Voc(DetectionFolder):
    """Photographs with an XML file of Pascal VOC's form each."""

    prefix = PREFIX

    def _read(self, folder: Path, findings: Findings) -> Annotated:
        pairs = _listed(folder, findings) or _in_folders(folder, findings)
        splits: dict[str, Split] = {}
        names: dict[str, int] = {}
        for split, both in pairs.items():
            annotated = any(is_kind(xml.is_file) for _, xml in both)
            photos = []
            for number, (image, xml) in enumerate(both, 1):
                photo = Photo(image, image.name, number, None, [], xml)
                if annotated:
                    _annotate(photo, names, findings)
                photos.append(photo)
            splits[split] = Split(photos, annotated)
        findings.require_none()
        read = {xml for both in pairs.values() for _, xml in both}
        for path in sorted({path for xml in read for path in xml.parent.glob("*.xml")} - read):
            findings.note("annotations of no image that is read, left out", str(path))
        if not names:
            raise DataError(f"{folder}: no object in any .xml, so there are no classes")
        order = {name: label for label, name in enumerate(sorted(names))}
        renumbered = {found: order[name] for name, found in names.items()}
        files = sorted({xml for both in pairs.values() for _, xml in both if is_kind(xml.is_file)})
        data = Annotated(splits, list(order), list(range(1, len(order) + 1)), "object", False, files)
        for number, (_, each) in enumerate(data.objects(), 1):
            each.label, each.id = renumbered[each.label], number
        return data


Pairs = dict[str, list[tuple[Path, Path]]]
"""The image and the XML of each photograph of each split."""


def _listed(folder: Path, findings: Findings) -> Pairs:
    """Return the photographs of a folder that has VOC's three folders, empty if it has not.

    Raises:
        DataError: several folders below have them, or a list names nothing.
    """
    roots = [each.parent for depth in ("", "*/", "*/*/") for each in sorted(folder.glob(f"{depth}Annotations"))]
    if not roots:
        return {}
    if len(roots) > 1:
        raise DataError(f"{folder}: several data sets, name one of {quoted([str(root) for root in roots])}")
    root = roots[0]
    place = next((root / name for name in _IMAGES if (root / name).is_dir()), root)
    images = {path.stem: path for path in sorted(place.iterdir()) if path.suffix.lower() in SUFFIXES}
    lists = {name: root / "ImageSets" / "Main" / f"{name}.txt" for name in _LISTS}
    names = {name: _stems(path) for name, path in lists.items() if path.is_file()}
    if {*names.get("train", ()), *names.get("val", ())} == {*names.get("trainval", ())} and "train" in names:
        findings.note("lists left out", f"{lists['trainval']}: the same as 'train+val'")
        del names["trainval"]
    if not names:
        names = {"train": sorted(images)}
    for name, stems in names.items():
        if not stems:
            raise DataError(f"{lists[name]}: names no image")
        if len({*stems}) < len(stems):
            double = sorted({stem for stem in stems if stems.count(stem) > 1})
            findings.fault("lists", f"{lists[name]}: names images twice: {quoted(double)}")
    return {
        name: [
            (images.get(stem, place / f"{stem}.jpg"), root / "Annotations" / f"{stem}.xml")
            for stem in dict.fromkeys(stems)
        ]
        for name, stems in names.items()
    }


def _stems(path: Path) -> list[str]:
    """Return the names of images that a list has first in each line, without suffixes of images."""
    found = []
    for line in path.read_text("utf-8", "surrogateescape").splitlines():
        if words := line.split():
            name = Path(words[0])
            found.append(name.stem if name.suffix.lower() in SUFFIXES else name.name)
    return found


def _in_folders(folder: Path, findings: Findings) -> Pairs:
    """Return the photographs of a folder whose XML files lie beside the images."""
    if not folder.is_dir():
        raise DataError(f"{folder}: expected a folder with images and .xml files")
    inside = [path for path in sorted(folder.iterdir()) if path.is_dir() and not is_hidden(path)]
    named = {split: path for path in inside if (split := split_spelled(path.name)) and any(path.rglob("*.xml"))}
    pairs = {split: _beside(path, findings) for split, path in named.items()} or {"train": _beside(folder, findings)}
    if not any(pairs.values()):
        raise DataError(
            f"{folder}: no image with an .xml; expected Annotations/*.xml, JPEGImages/*.jpg and "
            "ImageSets/Main/train.txt, or train/*.jpg and *.xml"
        )
    return pairs


def _beside(folder: Path, findings: Findings) -> list[tuple[Path, Path]]:
    found = []
    for image in sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES and not is_hidden(path)):
        xml = image.with_suffix(".xml")
        if xml.is_file():
            found.append((image, xml))
        else:
            what = "images without an .xml, left out (one without objects needs an .xml that has none)"
            findings.note(what, str(image))
    return found


def _annotate(photo: Photo, names: dict[str, int], findings: Findings) -> None:
    """Give a photograph the size and the objects of its XML; `names` numbers the classes as they are found."""
    try:
        content = photo.source.read_bytes()
    except (OSError, ValueError) as error:
        if not is_kind(photo.path.is_file):
            return  # a list names what is not there at all: a missing image
        findings.fault(
            "xml", f"{photo.source}: {photo.name} has no annotation ({getattr(error, 'strerror', '') or error})"
        )
        return
    try:
        tree = ElementTree.fromstring(content)
    # What an XML names as its encoding may be none.
    except (ElementTree.ParseError, ValueError, LookupError) as error:
        findings.fault("xml", f"{photo.source}: cannot be read as XML ({error})")
        return
    photo.size = _size(tree)
    first = 1.0 if _OF_VOC.match(tree.findtext("source/database") or "") else 0.0
    for number, each in enumerate(tree.findall("object"), 1):
        name = (each.findtext("name") or "").strip()
        box = [_number(each.findtext(f"bndbox/{key}")) for key in ("xmin", "ymin", "xmax", "ymax")]
        place = f"{photo.source}: object {number}"
        if not name:
            findings.fault("names", f"{place} has no name")
        elif None in box:
            findings.fault("boxes", f"{place} needs a bndbox with xmin, ymin, xmax and ymax")
        else:
            x1, y1, x2, y2 = (value or 0.0 for value in box)
            label = names.setdefault(name, len(names))
            difficult = _number(each.findtext("difficult")) or 0
            photo.objects.append(Annotation((x1 - first, y1 - first, x2, y2), label, number, 0, difficult > 0))


def _size(tree: ElementTree.Element) -> tuple[int, int] | None:
    height, width = (_number(tree.findtext(f"size/{key}")) or 0 for key in ("height", "width"))
    return (int(height), int(width)) if 1 <= height < 2**31 and 1 <= width < 2**31 else None


def _number(text: str | None) -> float | None:
    try:
        return float(text) if text is not None else None
    except ValueError:
        return None
