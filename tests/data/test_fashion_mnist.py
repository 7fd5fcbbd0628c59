import gzip

import numpy as np
import pytest

from aa_flax.data import DataError, load


def test_prepared_examples_are_the_official_ones(fashion, tmp_path):
    dataset = load("fashion_mnist", data_dir=tmp_path / "tfds", source_dir=fashion.folder)
    assert dataset.splits == {"train": 23, "test": 11}
    assert (dataset.num_classes, dataset.class_names[9], dataset.image_shape) == (10, "Ankle boot", (28, 28, 1))
    for name in ("train", "test"):
        expected = getattr(fashion, name)
        for index, example in enumerate(dataset.split(name)):
            np.testing.assert_array_equal(example["image"][..., 0], expected.images[index])
            assert (example["label"], example["index"]) == (expected.labels[index], index)


def test_plain_files_serve_as_well(fashion, tmp_path):
    for path in fashion.folder.glob("*.gz"):
        path.with_suffix("").write_bytes(gzip.decompress(path.read_bytes()))
        path.unlink()
    dataset = load("fashion_mnist", data_dir=tmp_path / "tfds", source_dir=fashion.folder)
    np.testing.assert_array_equal(dataset.split("test")[10]["image"][..., 0], fashion.test.images[10])


def damaged(fashion, name, content):
    (fashion.folder / name).write_bytes(content)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (
            lambda f: (f.folder / "t10k-labels-idx1-ubyte.gz").unlink(),
            "Fashion-MNIST needs .*; missing: t10k-labels-idx1-ubyte.gz$",
        ),
        (
            lambda f: damaged(f, "train-labels-idx1-ubyte.gz", bytes([0, 0, 8, 1, 0, 0, 0, 23]) + bytes(22) + b"\x0a"),
            "train-labels-idx1-ubyte.gz: example 22 has label 10, expected 0 to 9",
        ),
        (
            lambda f: damaged(f, "train-labels-idx1-ubyte.gz", bytes([0, 0, 8, 1, 0, 0, 0, 2, 0, 0])),
            "train-labels-idx1-ubyte.gz: 2 labels for the 23 images",
        ),
        (
            lambda f: damaged(f, "train-images-idx3-ubyte.gz", bytes([0, 0, 8, 3, *[0, 0, 0, 1] * 3, 0])),
            "images of 1 × 1, expected 28 × 28",
        ),
        (lambda f: damaged(f, "t10k-images-idx3-ubyte.gz", b"\x1f\x8b\x08"), "t10k-images-idx3-ubyte.gz: truncated"),
    ],
)
def test_faulty_files(fashion, tmp_path, damage, message):
    damage(fashion)
    with pytest.raises(DataError, match=message):
        load("fashion_mnist", data_dir=tmp_path / "tfds", source_dir=fashion.folder)
    # No incomplete folder is left that a later call would take for the data.
    with pytest.raises(DataError, match="not prepared"):
        load("fashion_mnist", data_dir=tmp_path / "tfds")
