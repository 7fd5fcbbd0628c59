"""CIFAR-10 and CIFAR-100 (Krizhevsky, 2009) from a folder with the official files, binary or Python version.

Binary version: records of one label byte (CIFAR-100: two, coarse and fine) and 3 × 32 × 32 pixels, channel by channel.
Python version: pickled dictionaries whose "data" [n, 3072] has the pixels in the same order.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from aa_flax.data.errors import DataError
from aa_flax.data.images import encode_png
from aa_flax.data.sets.builder import Example, Origin, require_files
from aa_flax.data.sets.restricted_pickle import read_pickle

_PIXELS = 3 * 32 * 32


@dataclass(frozen=True)
class _Layout:
    """The files of the official archive of one of the two data sets in one of the two versions."""

    folder: str
    splits: Mapping[str, tuple[str, ...]]
    names_file: str
    label_bytes: int = 1  # binary version; the last of these bytes is the label
    labels_key: str = ""  # Python version
    names_key: str = ""


def _batches(suffix: str) -> dict[str, tuple[str, ...]]:
    return {
        "train": tuple(f"data_batch_{number}{suffix}" for number in range(1, 6)),
        "test": (f"test_batch{suffix}",),
    }


class Cifar10(Origin):
    """CIFAR-10: 50,000 + 10,000 colour 32 × 32 photographs of 10 classes."""

    stored_name = "aa_cifar10"
    description = "CIFAR-10: colour 32 × 32 photographs, 10 classes, from the official files."
    homepage = "https://www.cs.toronto.edu/~kriz/cifar.html"
    image_shape = (32, 32, 3)
    _num_classes = 10
    _layouts: tuple[_Layout, ...] = (
        _Layout("cifar-10-batches-bin", _batches(".bin"), "batches.meta.txt"),
        _Layout("cifar-10-batches-py", _batches(""), "batches.meta", labels_key="labels", names_key="label_names"),
    )

    def __init__(self, folder: Path):
        self._layout, self._folder = self._find(folder)
        self._files = {name: self._folder / name for names in self._layout.splits.values() for name in names}
        self._names_file = self._folder / self._layout.names_file
        self._names = self._read_names()

    def _find(self, folder: Path) -> tuple[_Layout, Path]:
        for candidate in (folder, *(folder / layout.folder for layout in self._layouts)):
            for layout in self._layouts:
                files = [name for names in layout.splits.values() for name in names]
                # One file is enough to know the version; if others are missing, the message lists them.
                if any((candidate / name).is_file() for name in files):
                    require_files(candidate, [*files, layout.names_file], layout.folder)
                    return layout, candidate
        raise DataError(
            f"{folder}: neither the folder {' nor '.join(layout.folder for layout in self._layouts)} nor their files"
        )

    @property
    def files(self) -> list[Path]:
        return [*self._files.values(), self._names_file]

    @property
    def class_names(self) -> list[str]:
        return self._names

    def splits(self) -> Mapping[str, Iterator[Example]]:
        return {split: self._examples(names) for split, names in self._layout.splits.items()}

    def _examples(self, names: tuple[str, ...]) -> Iterator[Example]:
        for name in names:
            path = self._files[name]
            pixels, labels = self._read_pickled(path) if self._layout.labels_key else self._read_binary(path)
            for index, label in enumerate(labels):
                image = pixels[index].reshape(3, 32, 32).transpose(1, 2, 0)
                yield encode_png(np.ascontiguousarray(image)), self.checked_label(label, path, index)

    def _read_binary(self, path: Path) -> tuple[np.ndarray, list[int]]:
        content = np.fromfile(path, np.uint8)
        record = self._layout.label_bytes + _PIXELS
        if not content.size or content.size % record:
            raise DataError(
                f"{path}: {content.size} bytes are not a whole number of records of {record} bytes: truncated after "
                f"example {content.size // record - 1}"
                if content.size
                else f"{path}: the file is empty"
            )
        records = content.reshape(-1, record)
        return records[:, self._layout.label_bytes :], records[:, self._layout.label_bytes - 1].tolist()

    def _read_pickled(self, path: Path) -> tuple[np.ndarray, list[int]]:
        pixels, labels = (_entry(path, key) for key in ("data", self._layout.labels_key))
        if not isinstance(pixels, np.ndarray) or pixels.dtype != np.uint8 or pixels.shape[1:] != (_PIXELS,):
            found = f"{pixels.dtype} {pixels.shape}" if isinstance(pixels, np.ndarray) else type(pixels).__name__
            raise DataError(f"{path}: 'data' is {found}, expected uint8 [n, {_PIXELS}]")
        if not isinstance(labels, list) or not all(type(label) is int for label in labels):
            raise DataError(f"{path}: {self._layout.labels_key!r} is not a list of whole numbers")
        if len(labels) != len(pixels):
            raise DataError(f"{path}: {len(labels)} labels for {len(pixels)} images")
        return pixels, labels

    def _read_names(self) -> list[str]:
        path = self._names_file
        if self._layout.names_key:
            listed = _entry(path, self._layout.names_key)
            lines = [_text(name) for name in listed] if isinstance(listed, list) else []
        else:
            lines = path.read_text(encoding="ascii", errors="replace").split()
        if len(lines) != self._num_classes or len(set(lines)) != self._num_classes:
            raise DataError(f"{path}: {len(set(lines))} class names, expected {self._num_classes}")
        return lines


class Cifar100(Cifar10):
    """CIFAR-100: 50,000 + 10,000 colour 32 × 32 photographs of 100 classes (the fine labels)."""

    stored_name = "aa_cifar100"
    description = "CIFAR-100: colour 32 × 32 photographs, 100 classes (fine labels), from the official files."
    _num_classes = 100
    _layouts = (
        _Layout(
            "cifar-100-binary",
            {"train": ("train.bin",), "test": ("test.bin",)},
            "fine_label_names.txt",
            label_bytes=2,
        ),
        _Layout(
            "cifar-100-python",
            {"train": ("train",), "test": ("test",)},
            "meta",
            labels_key="fine_labels",
            names_key="fine_label_names",
        ),
    )


def _entry(path: Path, key: str) -> Any:
    content = read_pickle(path)
    found = {_text(name): value for name, value in content.items()} if isinstance(content, dict) else {}
    if key not in found:
        raise DataError(f"{path}: no entry {key!r}; entries: {', '.join(sorted(found)) or 'none'}")
    return found[key]


def _text(value: Any) -> str:
    return value.decode("latin1") if isinstance(value, bytes) else str(value)
