"""Sizes of well-known data sets, with which a run can be planned on a machine that does not have their files."""

from dataclasses import dataclass
from typing import Any, Literal


@dataclass(frozen=True)
class Facts:
    """The sizes that `aa_flax.data.load` would read of a data set.

    Attributes:
        image_shape: (h, w, c); h and w are None where images differ in size.
        num_classes: the number of classes.
        train_examples: the number of examples of the training split.
        category_ids: of a data set of detection, the number of each class in its files; () of others.
        signals: "padded" of signals that differ in size, whose largest is `image_shape`, "alike" of others; "" of
            images.
    """

    image_shape: tuple[Any, ...]
    num_classes: int
    train_examples: int
    category_ids: tuple[int, ...] = ()
    signals: Literal["", "padded", "alike"] = ""


COCO_CATEGORY_IDS = tuple(id_ for id_ in range(1, 91) if id_ not in (12, 26, 29, 30, 45, 66, 68, 69, 71, 83))
"""The numbers of COCO's 80 classes; ten of 1 to 90 are no class."""

FACTS = {
    "bccd_subset": Facts((None, None, 3), 3, 48, (1, 2, 3)),
    "arrays/solids": Facts((10, 10, 10, 1), 6, 1200, signals="alike"),
    "cifar10": Facts((32, 32, 3), 10, 50_000),
    "cifar100": Facts((32, 32, 3), 100, 50_000),
    "coco/2017": Facts((None, None, 3), 80, 118_287, COCO_CATEGORY_IDS),
    "coco_json/coco2017": Facts((None, None, 3), 80, 118_287, COCO_CATEGORY_IDS),
    "coco_json/shapes": Facts((None, None, 3), 5, 32, (1, 2, 3, 4, 5)),
    "fashion_mnist": Facts((28, 28, 1), 10, 60_000),
    "fashion_mnist_subset": Facts((28, 28, 1), 10, 8_000),
    "imagenet2012": Facts((None, None, 3), 1000, 1_281_167),
    "label_folder/ade20k": Facts((None, None, 3), 150, 20_210),
    "label_folder/camvid": Facts((None, None, 3), 11, 367),
    "ts/JapaneseVowels": Facts((29, 12), 9, 270, signals="padded"),
    "voc/bccd": Facts((None, None, 3), 3, 205, (1, 2, 3)),
}
"""The facts of each data set, by the name that configs use."""
