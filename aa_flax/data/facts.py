"""Sizes of well-known data sets: enough to plan a run on them where their files are not."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Facts:
    """What `aa_flax.data.load` would find out; height and width are None where images differ in size."""

    image_shape: tuple[int | None, int | None, int]
    num_classes: int
    train_examples: int


FACTS = {
    "cifar10": Facts((32, 32, 3), 10, 50_000),
    "cifar100": Facts((32, 32, 3), 100, 50_000),
    "fashion_mnist": Facts((28, 28, 1), 10, 60_000),
    "fashion_mnist_subset": Facts((28, 28, 1), 10, 8_000),
    "imagenet2012": Facts((None, None, 3), 1000, 1_281_167),
}
"""By the names that configs use."""
