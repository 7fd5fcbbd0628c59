"""Sizes of well-known data sets, with which a run can be planned on a machine that does not have their files."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Facts:
    """The sizes that `aa_flax.data.load` would read of a data set.

    Attributes:
        image_shape: (h, w, c); h and w are None where images differ in size.
        num_classes: the number of classes.
        train_examples: the number of examples of the training split.
    """

    image_shape: tuple[int | None, int | None, int]
    num_classes: int
    train_examples: int


FACTS = {
    "bccd_subset": Facts((None, None, 3), 3, 48),
    "cifar10": Facts((32, 32, 3), 10, 50_000),
    "cifar100": Facts((32, 32, 3), 100, 50_000),
    "coco/2017": Facts((None, None, 3), 80, 118_287),
    "fashion_mnist": Facts((28, 28, 1), 10, 60_000),
    "fashion_mnist_subset": Facts((28, 28, 1), 10, 8_000),
    "imagenet2012": Facts((None, None, 3), 1000, 1_281_167),
}
"""The facts of each data set, by the name that configs use."""
