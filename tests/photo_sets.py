"""Tiny data sets of detection, written as COCO's JSON, Pascal VOC's XML and YOLO's text files by code of their own."""

import dataclasses
import json
from xml.sax.saxutils import escape

import numpy as np
from PIL import Image

NAMES = ("ant", "bee", "cat")
EXIF_ORIENTATION = 0x0112


@dataclasses.dataclass
class Made:
    """A photograph of one colour: name, (height, width), objects (label, x1, y1, x2, y2), and EXIF's orientation."""

    name: str
    size: tuple
    objects: list
    color: int = 0
    orientation: int = 1


def photos(seed=0, train=5, val=3):
    """Return splits of photographs with random boxes inside; one of train has no objects."""
    rng = np.random.default_rng(seed)
    made, color = {}, 0
    for split, count in (("train", train), ("val", val)):
        made[split] = []
        for number in range(count):
            height, width = (int(side) for side in rng.integers(23, 61, 2))
            corners = np.sort(rng.uniform(0, 1, (number % 4, 2, 2)), 1) * [width, height]
            objects = [((number + k) % 3, *box.reshape(4).tolist()) for k, box in enumerate(corners)]
            color += 1
            made[split].append(Made(f"{split}{number}.jpg", (height, width), objects, color))
    return made


def write_image(path, made):
    path.parent.mkdir(parents=True, exist_ok=True)
    exif = Image.Exif()
    if made.orientation > 1:
        exif[EXIF_ORIENTATION] = made.orientation
    color = (17 * made.color % 256, 29 * made.color % 256, 40)
    Image.new("RGB", made.size[::-1], color).save(path, exif=exif, quality=95)


def coco(made, first_id=1):
    """Return COCO's document of the photographs of a split; ids of categories are 3, 5 and 11, names in NAMES."""
    images, annotations = [], []
    for number, each in enumerate(made, first_id):
        images.append({"id": number, "file_name": each.name, "height": each.size[0], "width": each.size[1]})
        for label, x1, y1, x2, y2 in each.objects:
            annotations.append(
                {
                    "id": len(annotations) + 101,
                    "image_id": number,
                    "category_id": (3, 5, 11)[label],
                    "bbox": [x1, y1, x2 - x1, y2 - y1],
                    "area": 0.7 * (x2 - x1) * (y2 - y1),
                    "iscrowd": int(label == 2),
                    "segmentation": [[x1, y1, x2, y1, x2, y2]],
                }
            )
    categories = [{"id": number, "name": name} for number, name in zip((3, 5, 11), NAMES, strict=True)]
    return {"images": images, "annotations": annotations, "categories": categories}


def write_coco(folder, made, layout="coco", change=None):
    """Write a folder in one of the layouts of COCO's JSON; `change(split, document)` may change a document before."""
    for number, (split, some) in enumerate(made.items()):
        document = coco(some, 1 + 1000 * number)
        if change:
            document = change(split, document) or document
        path, images = {
            "coco": (folder / f"annotations/instances_{split}2017.json", folder / f"{split}2017"),
            "roboflow": (folder / f"{split}/_annotations.coco.json", folder / split),
            "beside": (folder / f"{split}.json", folder),
            "images": (folder / f"{split}.json", folder / "images"),
            "images of splits": (folder / f"annotations/{split}.json", folder / "images" / split),
        }[layout]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(document))
        for each in some:
            write_image(images / each.name, each)
    return folder


def xml(each, database="Unknown", names=NAMES):
    """Return Pascal VOC's XML of a photograph; objects of the class 2 are difficult."""
    objects = "".join(
        f"<object><name> {escape(names[label])}\n</name><difficult>{int(label == 2)}</difficult>"
        f"<part><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>2</xmax><ymax>2</ymax></bndbox></part>"
        f"<bndbox><xmin>{x1!r}</xmin><ymin>{y1!r}</ymin><xmax>{x2!r}</xmax><ymax>{y2!r}</ymax></bndbox></object>"
        for label, x1, y1, x2, y2 in each.objects
    )
    size = f"<size><width>{each.size[1]}</width><height>{each.size[0]}</height><depth>3</depth></size>"
    return f"<annotation><source><database>{database}</database></source>{size}{objects}</annotation>"


def write_voc(folder, made, layout="voc", database="Unknown"):
    """Write a folder in one of the layouts of Pascal VOC's XML."""
    for split, some in made.items():
        texts, images = (folder / "Annotations", folder / "JPEGImages") if layout == "voc" else (folder / split,) * 2
        if layout == "flat":
            texts = images = folder
        texts.mkdir(parents=True, exist_ok=True)
        for each in some:
            write_image(images / each.name, each)
            (texts / each.name).with_suffix(".xml").write_text(xml(each, database), "utf-8")
        if layout == "voc":
            lists = folder / "ImageSets" / "Main"
            lists.mkdir(parents=True, exist_ok=True)
            (lists / f"{split}.txt").write_text("".join(f"{each.name.rpartition('.')[0]}\n" for each in some))
            (lists / f"ant_{split}.txt").write_text("another kind of list 1\n")
    return folder


def yolo(each):
    """Return YOLO's lines of a photograph."""
    height, width = each.size
    rows = [
        (label, (x1 + x2) / 2 / width, (y1 + y2) / 2 / height, (x2 - x1) / width, (y2 - y1) / height)
        for label, x1, y1, x2, y2 in each.objects
    ]
    return "".join(" ".join(map(repr, row)) + "\n" for row in rows)


def write_yolo(folder, made, layout="ultralytics", names=NAMES):
    """Write a folder in one of the layouts of YOLO's text files, with a yaml if there are names."""
    for split, some in made.items():
        images, texts = {
            "ultralytics": (folder / "images" / split, folder / "labels" / split),
            "roboflow": (folder / split / "images", folder / split / "labels"),
            "beside": (folder / split, folder / split),
        }[layout]
        texts.mkdir(parents=True, exist_ok=True)
        for each in some:
            write_image(images / each.name, each)
            if each.objects or each.color % 2:  # an empty file, or none
                (texts / each.name).with_suffix(".txt").write_text(yolo(each))
    if names:
        places = {"ultralytics": "images/{}", "roboflow": "../{}/images", "beside": "{}"}[layout]
        listed = "".join(f"{split}: {places.format(split)}\n" for split in made)
        (folder / "data.yaml").write_text(f"{listed}nc: {len(names)}\nnames: {json.dumps(names)}\n", "utf-8")
    return folder
