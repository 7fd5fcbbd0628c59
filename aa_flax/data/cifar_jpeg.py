"""CIFAR-10 re-encoded as JPEG, all images in one npz file. Lossy: a result on it is not a CIFAR-10 result.

Image i is the shared `header` followed by `scans[offsets[i]:offsets[i + 1]]`; `labels`, `split` (0 train, 1 test) and
`classes` go with it. The bytes are stored as they are, never decoded and encoded again.
"""

import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from aa_flax.data.builder import Example, Origin
from aa_flax.data.errors import DataError

_FILE = "cifar10_jpeg.npz"
_KINDS = {"header": "u", "scans": "u", "offsets": "iu", "labels": "iu", "split": "iu", "classes": "U"}
_SPLITS = ("train", "test")


class Cifar10Jpeg(Origin):
    """50,000 + 10,000 colour 32 × 32 photographs of 10 classes, JPEG quality 75."""

    stored_name = "aa_cifar10_jpeg"
    description = "CIFAR-10, re-encoded as JPEG (quality 75, 4:2:0). Lossy: not comparable with CIFAR-10 itself."
    homepage = "https://www.cs.toronto.edu/~kriz/cifar.html"
    image_shape = (32, 32, 3)
    encoding = "jpeg"

    def __init__(self, folder: Path):
        self._path = folder if folder.is_file() else folder / _FILE
        self._arrays = _read(self._path)

    @property
    def files(self) -> list[Path]:
        return [self._path]

    @property
    def class_names(self) -> list[str]:
        return [str(name) for name in self._arrays["classes"]]

    def splits(self) -> Mapping[str, Iterator[Example]]:
        return {name: self._examples(number) for number, name in enumerate(_SPLITS)}

    def _examples(self, split: int) -> Iterator[Example]:
        header, scans = self._arrays["header"].tobytes(), self._arrays["scans"]
        offsets = self._arrays["offsets"].tolist()
        for index in np.flatnonzero(self._arrays["split"] == split).tolist():
            label = self.checked_label(int(self._arrays["labels"][index]), self._path, index)
            yield header + scans[offsets[index] : offsets[index + 1]].tobytes(), label


def _read(path: Path) -> dict[str, np.ndarray]:
    try:
        # Opened here, because numpy leaves its own file open when the archive turns out to be damaged.
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in _KINDS if name in archive.files}
    except FileNotFoundError:
        raise DataError(f"{path}: no such file; expected the folder with {_FILE}, or that file") from None
    # zipfile and numpy raise any of these for a file that is cut off or is something else.
    except (OSError, ValueError, EOFError, TypeError, AttributeError, zipfile.BadZipFile) as error:
        raise DataError(f"{path}: truncated or damaged npz file ({error})") from None
    for name, kinds in _KINDS.items():
        if name not in arrays:
            raise DataError(f"{path}: no array {name!r}; expected {', '.join(_KINDS)}")
        if arrays[name].ndim != 1 or arrays[name].dtype.kind not in kinds:
            raise DataError(
                f"{path}: {name!r} is {arrays[name].dtype} with {arrays[name].ndim} dimensions, expected one dimension "
                f"of kind {kinds!r}"
            )
    labels, offsets, split = arrays["labels"], arrays["offsets"].astype(np.int64), arrays["split"]
    if len(offsets) != len(labels) + 1 or len(split) != len(labels):
        raise DataError(
            f"{path}: {len(labels)} labels, {len(split)} split entries and {len(offsets)} offsets do not fit together"
        )
    wrong = np.flatnonzero((np.diff(offsets) <= 0) | (offsets[:-1] < 0) | (offsets[1:] > len(arrays["scans"])))
    if wrong.size:
        raise DataError(
            f"{path}: example {wrong[0]} would be bytes {offsets[wrong[0]]} to {offsets[wrong[0] + 1]} of "
            f"{len(arrays['scans'])}"
        )
    unknown = np.flatnonzero(split >= len(_SPLITS))
    if unknown.size:
        raise DataError(f"{path}: example {unknown[0]} is in split {split[unknown[0]]}, expected 0 or 1")
    return arrays
