"""Tiny data sets in the official formats, made by the tests without a network or copies of the real sets."""

import gzip
import pickle
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from aa_flax.data import Dataset, load
from aa_flax.data.array_source import ArraySource
from aa_flax.data.source import Source


def idx_bytes(array: np.ndarray) -> bytes:
    """Return an array in IDX format, written independently of `aa_flax.data.sets.idx`."""
    sizes = b"".join(size.to_bytes(4, "big") for size in array.shape)
    return bytes([0, 0, 8, array.ndim]) + sizes + array.astype(np.uint8).tobytes()


@pytest.fixture
def fashion(tmp_path: Path) -> SimpleNamespace:
    """Return a folder in Fashion-MNIST's official format with 23 + 11 images."""
    rng = np.random.default_rng(3)
    folder = tmp_path / "fashion"
    folder.mkdir()
    made = SimpleNamespace(folder=folder)
    for split, name, count in (("train", "train", 23), ("test", "t10k", 11)):
        images, labels = rng.integers(0, 256, (count, 28, 28), np.uint8), rng.integers(0, 10, count, np.uint8)
        (folder / f"{name}-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx_bytes(images)))
        (folder / f"{name}-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx_bytes(labels)))
        setattr(made, split, SimpleNamespace(images=images, labels=labels))
    return made


@pytest.fixture
def cifar(tmp_path: Path) -> Callable[..., SimpleNamespace]:
    """Return a function that makes a CIFAR folder, `cifar(10 or 100, "binary" or "python")`, with 3 images a file."""

    def make(classes: int, version: str) -> SimpleNamespace:
        rng = np.random.default_rng(classes)
        names = [f"thing_{number}" for number in range(classes)]
        binary = version == "binary"
        parent = tmp_path / f"cifar{classes}_{version}"
        if classes == 10:
            folder = parent / ("cifar-10-batches-bin" if binary else "cifar-10-batches-py")
            suffix = ".bin" if binary else ""
            files = {"train": [f"data_batch_{i}{suffix}" for i in range(1, 6)], "test": [f"test_batch{suffix}"]}
        else:
            folder = parent / ("cifar-100-binary" if binary else "cifar-100-python")
            files = {split: [f"{split}.bin" if binary else split] for split in ("train", "test")}
        folder.mkdir(parents=True)
        made = SimpleNamespace(folder=folder, parent=parent, names=names)
        for split, file_names in files.items():
            images = rng.integers(0, 256, (3 * len(file_names), 32, 32, 3), np.uint8)
            labels = rng.integers(0, classes, len(images))
            labels[-1] = classes - 1
            setattr(made, split, SimpleNamespace(images=images, labels=labels))
            for number, file_name in enumerate(file_names):
                rows = slice(3 * number, 3 * number + 3)
                planes = np.stack([image.transpose(2, 0, 1).reshape(-1) for image in images[rows]])
                (folder / file_name).write_bytes(
                    _cifar_binary(planes, labels[rows], classes)
                    if binary
                    else _cifar_pickle(planes, labels[rows].tolist(), classes)
                )
        if binary:
            (folder / ("batches.meta.txt" if classes == 10 else "fine_label_names.txt")).write_text(
                "\n".join(names) + "\n\n"
            )
        else:
            key = "label_names" if classes == 10 else "fine_label_names"
            name = "batches.meta" if classes == 10 else "meta"
            (folder / name).write_bytes(pickle.dumps({key.encode(): [n.encode() for n in names]}, protocol=2))
        return made

    return make


def _cifar_binary(planes: np.ndarray, labels: np.ndarray, classes: int) -> bytes:
    coarse = b"\x07" if classes == 100 else b""
    return b"".join(coarse + struct.pack("B", label) + row.tobytes() for label, row in zip(labels, planes, strict=True))


def _cifar_pickle(planes: np.ndarray, labels: list[int], classes: int) -> bytes:
    key = b"labels" if classes == 10 else b"fine_labels"
    return pickle.dumps({b"data": planes, key: labels, b"filenames": [b"x.png"] * len(labels)}, protocol=2)


@pytest.fixture(scope="session")
def embedded(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """Return the embedded data set, prepared once."""
    return load("fashion_mnist_subset", data_dir=tmp_path_factory.mktemp("tfds"))


@pytest.fixture
def toy() -> Source:
    """Return a source of 37 images of 5 × 7 with different pixels."""
    rng = np.random.default_rng(11)
    return ArraySource(
        "toy", rng.integers(0, 256, (37, 5, 7, 3), np.uint8), {"label": rng.integers(0, 4, 37, np.int32)}
    )


@pytest.fixture
def take() -> Callable[..., Any]:
    """Return a function that takes the first `count` batches of an iterator and closes it."""

    def take(batches: Iterator[Any], count: int) -> list[Any]:
        with batches:  # type: ignore[attr-defined]
            return [next(batches) for _ in range(count)]

    return take
