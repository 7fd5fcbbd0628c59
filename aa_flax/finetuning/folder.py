"""The photographs of a folder: prepared as a data set, with a part that is held out."""

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from aa_flax import data
from aa_flax.data.sets.folder_layout import lay_out
from aa_flax.data.sets.looking import KINDS, kind_of_files
from aa_flax.data.sets.own import open_origin
from aa_flax.literal import quoted

HELD_OUT = 0.2
"""Part of the photographs that is held out where a folder has no split for it."""
_HELD_OUT_SPLITS = ("val", "valid", "validation", "test")
_SAMPLE = 24  # photographs whose sizes are looked at
_TASKS = {"image_folder": "classification", "label_folder": "segmentation"}


@dataclass(frozen=True)
class Photographs:
    """A folder of photographs as a data set.

    Attributes:
        dataset: the data set, prepared.
        task: "classification", "detection" or "segmentation".
        train, held_out: the two splits, as `config.data.train_split` and `eval_split` have them.
        sizes: [sample, 2], height and width of some of the photographs.
        said: lines for the user: what was found, and which part is held out.
    """

    dataset: data.Dataset
    task: str
    train: str
    held_out: str
    sizes: np.ndarray
    said: tuple[str, ...]

    def count(self, split: str) -> int:
        """Return the number of photographs of `train` or `held_out`."""
        return len(self.dataset.split(split))

    def longer_side(self) -> int:
        """Return the median of the longer sides, in pixels."""
        return int(np.median(self.sizes.max(axis=1)))

    def shorter_side(self) -> int:
        """Return the median of the shorter sides, in pixels."""
        return int(np.median(self.sizes.min(axis=1)))

    def canvas(self, longest: int, multiple: int = 32) -> tuple[int, int]:
        """Return (height, width) in pixels of a canvas for photographs whose longer side is made at most `longest`.

        It has their usual aspect; it is square where one in five or more is upright and as many are not. Sides divide
        by `multiple`, and are no longer than the photographs' own by more than that.
        """
        longest = min(longest, self.longer_side())
        upright = (self.sizes[:, 0] > self.sizes[:, 1]).mean()
        aspect = float(np.median(self.sizes[:, 0] / self.sizes[:, 1]))
        if 0.2 <= upright <= 0.8:
            sides = longest, longest
        else:
            sides = (longest, round(longest / aspect)) if aspect > 1 else (round(longest * aspect), longest)
        height, width = (-(-side // multiple) * multiple for side in sides)
        return height, width

    def objects(self) -> tuple[np.ndarray, int]:
        """Return the boxes [objects, 4] of the photographs that are learnt from, on photographs whose longer side is 1.

        And the largest number of objects of one photograph.
        """
        boxes, most = [np.zeros((0, 4))], 0
        for truth in self.dataset.truths(self.train):
            boxes.append(truth.boxes / max(truth.height, truth.width))
            most = max(most, len(truth.boxes))
        return np.concatenate(boxes), most


def open_folder(folder: str | Path, kind: str = "", data_dir: str = "", *, skip_damaged: bool = False) -> Photographs:
    """Prepare the photographs of a folder and choose the part that is held out.

    The data set is named by the folder and by what lies in it, so that a folder with other photographs is another data
    set. The held-out part is that of the folder if it has one, called val, valid, validation or test. Else it is a
    fifth of the photographs, always the same, with its share of each class and at least one of each.

    Args:
        folder: the folder.
        kind: one of `aa_flax.data.sets.looking.KINDS`; "" is found by looking.
        data_dir, skip_damaged: the folder of prepared data, and whether photographs that cannot be read are left out,
            as of `aa_flax.data.load`.

    Raises:
        DataError: the folder has no images, its kind cannot be told, its files are faulty, nothing in it has a box, or
            no part can be held out.
    """
    path = Path(folder).expanduser().absolute()
    name = name_of_data(path, kind)
    found = name.partition("/")[0]
    if found == "image_folder":
        _require_two_of_each(path)
    dataset = data.load(name, data_dir=data_dir, source_dir=path, skip_damaged=skip_damaged)
    train, held_out, line = _splits(dataset, path)
    if dataset.has_objects and not any(len(truth.boxes) for truth in dataset.truths(train)):
        raise data.DataError(f"{path}: no photograph of {train!r} has an object, and a detector learns from objects")
    source = dataset.split(train)
    places = np.linspace(0, len(source) - 1, min(_SAMPLE, len(source))).round().astype(int)
    sizes = np.array([source[int(place)]["image"].shape[:2] for place in places])
    classes = f"{dataset.num_classes} classes, {quoted(dataset.class_names, 5)}"
    said = (f"{path}: {found}, {sum(dataset.splits.values()):,} photographs of {classes}", line)
    return Photographs(dataset, _TASKS.get(found, "detection"), train, held_out, sizes, said)


def name_of_data(folder: Path, kind: str = "") -> str:
    """Return the name of the data set of a folder, KIND/NAME_HASH, by its own name and by the files in it.

    Raises:
        DataError: as `open_folder`.
    """
    if kind and kind not in KINDS:
        raise data.DataError(f"kind must be one of {', '.join(KINDS)}, got {kind!r}")
    found = kind or kind_of_files(folder)
    label = re.sub(r"\W+", "_", folder.name, flags=re.ASCII).strip("_")[:40] or "mine"
    sums = open_origin(f"{found}/{label}", folder).checksums()
    digest = hashlib.sha256(repr(sorted(sums.items())).encode()).hexdigest()[:8]
    return f"{found}/{label}_{digest}"


def _require_two_of_each(folder: Path) -> None:
    """Raise DataError if a class has one image, and a part must be held out."""
    splits = lay_out(folder).splits
    if len(splits) > 1:
        return
    if single := [name for name, paths in splits["train"].items() if len(paths) < 2]:
        raise data.DataError(
            f"{folder}: one image in the class {quoted(single, 5)}; each needs two at least, one of which is held out"
        )


def _splits(dataset: data.Dataset, folder: Path) -> tuple[str, str, str]:
    """Return the splits that are learnt from and held out, and a line that says so."""
    there: Any = dataset.splits
    train = next((name for name in ("train", "trainval") if name in there), "")
    if not train:
        raise data.DataError(f"{folder}: no split 'train' among {quoted(list(there))}")
    for name in _HELD_OUT_SPLITS:
        if name in there and (not dataset.has_objects or dataset.is_annotated(name)):
            return train, name, f"held out: the folder's own {name!r}, {there[name]:,} photographs"
    count = there[train]
    least = dataset.num_classes if not dataset.has_label_maps else 1
    held = min(max(round(HELD_OUT * count), least, 1), count // 2)
    if not held:
        raise data.DataError(f"{folder}: one photograph; two are needed at least, one of which is held out")
    share = "at random" if dataset.has_label_maps else "with its share of each class"
    line = f"held out: {held:,} of {count:,} photographs, {share}, always the same ones; train/ and val/ say otherwise"
    return f"{train}[:{count - held}]", f"{train}[{count - held}:]", line
