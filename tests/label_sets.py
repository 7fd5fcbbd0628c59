"""Tiny data sets of photographs with label maps, drawn by code and written in the layouts of ADE20k and CamVid."""

import dataclasses

import numpy as np
from PIL import Image

COLORS = np.array([[200, 30, 30], [30, 200, 30], [30, 30, 200], [200, 200, 30]], np.uint8)
"""The colour in photographs of each class, and of pixels of no class."""
NAMES = ("sky", "road surface", "car")


@dataclasses.dataclass
class Labelled:
    """A photograph's name, and the values [h, w] of its map: classes 0 to 2, or 3 for none."""

    name: str
    values: np.ndarray

    @property
    def labels(self):
        """Return the labels, as they are once the data set is prepared."""
        return np.where(self.values == 3, 255, self.values).astype(np.uint8)


def labelled(seed=0, train=5, val=3, least=17, most=41):
    """Return splits of photographs with rectangles of the classes; the first of train has all values."""
    rng = np.random.default_rng(seed)
    made = {"train": [], "val": []}
    for split, count in (("train", train), ("val", val)):
        for number in range(count):
            height, width = (int(side) for side in rng.integers(least, most, 2))
            values = np.full((height, width), int(rng.integers(0, 3)), np.uint8)
            for _ in range(4):
                (top, bottom), (left, right) = (np.sort(rng.integers(0, side + 1, 2)) for side in (height, width))
                values[top:bottom, left:right] = rng.integers(0, 4)
            if number == 0:
                values[:2, :2] = [[0, 1], [2, 3]]
            made[split].append(Labelled(f"{split}{number}.jpg", values))
    return made


def write_photo(path, values, orientation=1):
    """Write the photograph of a map's values, as JPEG or PNG."""
    path.parent.mkdir(parents=True, exist_ok=True)
    exif = Image.Exif()
    if orientation > 1:
        exif[0x0112] = orientation
    options = {"quality": 95, "subsampling": 0} if path.suffix == ".jpg" else {}
    Image.fromarray(COLORS[values]).save(path, exif=exif, **options)


def write_map(path, values, form="grey"):
    """Write a map's values as a PNG: "grey", with a "palette", or as "colours"."""
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = Image.fromarray(COLORS[values] if form == "colours" else values)
    if form == "palette":
        picture.putpalette(COLORS.reshape(-1).tolist())
    picture.save(path)


def folders(folder, split, layout="ade20k"):
    """Return the folders of photographs and of maps of a split."""
    long = {"train": "training", "val": "validation"}[split]
    return {
        "ade20k": (folder / "images" / long, folder / "annotations" / long),
        "camvid": (folder / split, folder / f"{split}annot"),
        "underscore": (folder / split, folder / f"{split}_labels"),
        "within": (folder / split / "images", folder / split / "masks"),
        "mmseg": (folder / "img_dir" / split, folder / "ann_dir" / split),
    }[layout]


def write_labelled(folder, made, layout="ade20k", form="grey", classes="classes.txt"):
    """Write a folder in one of the layouts; `classes` is the form of the file of classes, "" for none."""
    for split, some in made.items():
        images, maps = folders(folder, split, layout)
        for each in some:
            write_photo(images / each.name, each.values)
            write_map((maps / each.name).with_suffix(".png"), each.values, form)
    if classes == "classes.txt":
        (folder / classes).write_text("".join(f"{name}\n" for name in NAMES) + "-\n")
    elif classes == "colours":
        rows = zip((*NAMES, "-"), COLORS.tolist(), strict=True)
        (folder / "classes.txt").write_text("".join(f"{name} {r} {g} {b}\n" for name, (r, g, b) in rows))
    return folder
