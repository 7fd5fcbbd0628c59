"""Small data sets that only these experiments use: encoded images end to end in one npz file.

Image i is `header` (where the images share one) followed by bytes `offsets[i]` to `offsets[i + 1]` of one long array.
Other arrays are `labels` and `split` (0 train, 1 held out), one value per image, and the names `classes`. The bytes are
stored as they are, never decoded and encoded again. Importing this module makes the data sets known to
`aa_flax.data.load` and to plans.
"""

import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import ClassVar

import numpy as np

from aa_flax.data import DataError, register
from aa_flax.data.facts import Facts
from aa_flax.data.sets.builder import Example, Origin


class Packed(Origin):
    """A data set in one npz file; a subclass says what the file is called and which arrays it has."""

    file_name: ClassVar[str]
    bytes_name: ClassVar[str]  # the array with the images' bytes
    has_header: ClassVar[bool]
    split_names: ClassVar[tuple[str, str]]
    # Whether the file is sorted by class; if so, examples are stored in a random order, so that a part of a split has
    # every class.
    sorted_by_class: ClassVar[bool] = False

    def __init__(self, folder: Path):
        self._path = folder if folder.is_file() else folder / self.file_name
        self._arrays = self._read()

    @property
    def files(self) -> list[Path]:
        return [self._path]

    @property
    def class_names(self) -> list[str]:
        return [str(name) for name in self._arrays["classes"]]

    def splits(self) -> Mapping[str, Iterator[Example]]:
        return {name: self._examples(number) for number, name in enumerate(self.split_names)}

    def _examples(self, split: int) -> Iterator[Example]:
        header = self._arrays["header"].tobytes() if self.has_header else b""
        images, offsets = self._arrays[self.bytes_name], self._arrays["offsets"].tolist()
        indices = np.flatnonzero(self._arrays["split"] == split)
        if self.sorted_by_class:
            indices = np.random.default_rng(split).permutation(indices)
        for index in indices.tolist():
            label = self.checked_label(int(self._arrays["labels"][index]), self._path, index)
            yield header + images[offsets[index] : offsets[index + 1]].tobytes(), label

    def _read(self) -> dict[str, np.ndarray]:
        path = self._path
        kinds = {"header": "u"} if self.has_header else {}
        kinds |= {self.bytes_name: "u", "offsets": "iu", "labels": "iu", "split": "iu", "classes": "U"}
        try:
            # The file is opened here, because numpy leaves a file that it opened open when the archive is damaged.
            with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
                arrays = {name: archive[name] for name in kinds if name in archive.files}
        except FileNotFoundError:
            raise DataError(f"{path}: no such file; expected the folder with {self.file_name}, or that file") from None
        # zipfile and numpy raise any of these for a file that is cut off or is something else.
        except (OSError, ValueError, EOFError, TypeError, AttributeError, zipfile.BadZipFile) as error:
            raise DataError(f"{path}: truncated or damaged npz file ({error})") from None
        for name, kind in kinds.items():
            if name not in arrays:
                raise DataError(f"{path}: no array {name!r}; expected {', '.join(kinds)}")
            if arrays[name].ndim != 1 or arrays[name].dtype.kind not in kind:
                raise DataError(
                    f"{path}: {name!r} is {arrays[name].dtype} with {arrays[name].ndim} dimensions, expected one "
                    f"dimension of kind {kind!r}"
                )
        labels, offsets, split = arrays["labels"], arrays["offsets"].astype(np.int64), arrays["split"]
        if len(offsets) != len(labels) + 1 or len(split) != len(labels):
            raise DataError(
                f"{path}: {len(labels)} labels, {len(split)} split entries and {len(offsets)} offsets do not fit "
                "together"
            )
        length = len(arrays[self.bytes_name])
        wrong = np.flatnonzero((np.diff(offsets) <= 0) | (offsets[:-1] < 0) | (offsets[1:] > length))
        if wrong.size:
            first = wrong[0]
            raise DataError(
                f"{path}: example {first} would be bytes {offsets[first]} to {offsets[first + 1]} of {length}"
            )
        unknown = np.flatnonzero(split >= len(self.split_names))
        if unknown.size:
            raise DataError(f"{path}: example {unknown[0]} is in split {split[unknown[0]]}, expected 0 or 1")
        return arrays


class Cifar10Jpeg(Packed):
    """CIFAR-10 as JPEG: 50,000 + 10,000 colour 32 × 32 photographs of 10 classes.

    JPEG is lossy, so a result on this data set is not a CIFAR-10 result.
    """

    stored_name = "aa_cifar10_jpeg"
    description = "CIFAR-10, re-encoded as JPEG (quality 75, 4:2:0). Lossy: not comparable with CIFAR-10 itself."
    homepage = "https://www.cs.toronto.edu/~kriz/cifar.html"
    image_shape = (32, 32, 3)
    encoding = "jpeg"
    file_name = "cifar10_jpeg.npz"
    bytes_name = "scans"
    has_header = True
    split_names = ("train", "test")


class Imagenette128(Packed):
    """Imagenette: 9,469 + 3,925 colour photographs of 10 classes of ImageNet, squashed to 128 × 128.

    The file has the classes' WordNet ids; `class_names` are words.
    """

    stored_name = "aa_imagenette128"
    description = (
        "Imagenette2, ten easily told classes of ImageNet (Jeremy Howard, fast.ai), every image squashed to 128 × 128 "
        "and encoded as WebP (quality 75). ImageNet's terms: non-commercial research."
    )
    homepage = "https://github.com/fastai/imagenette"
    image_shape = (128, 128, 3)
    encoding = None  # TFDS knows no WebP; it stores the bytes all the same
    file_name = "imagenette128_webp.npz"
    bytes_name = "blob"
    has_header = False
    sorted_by_class = True
    version = "1.1.0"
    split_names = ("train", "validation")

    @property
    def class_names(self) -> list[str]:
        return [_WORDNET.get(name, name) for name in super().class_names]


_WORDNET = {
    "n01440764": "tench",
    "n02102040": "English springer",
    "n02979186": "cassette player",
    "n03000684": "chain saw",
    "n03028079": "church",
    "n03394916": "French horn",
    "n03417042": "garbage truck",
    "n03425413": "gas pump",
    "n03445777": "golf ball",
    "n03888257": "parachute",
}

# Mean and standard deviation of all pixels of the training split, computed from the files.
register(
    "cifar10_jpeg",
    Cifar10Jpeg,
    Facts((32, 32, 3), 10, 50_000),
    mean=(0.4913, 0.4821, 0.4465),
    std=(0.2452, 0.2428, 0.2606),
)
register(
    "imagenette128",
    Imagenette128,
    Facts((128, 128, 3), 10, 9_469),
    mean=(0.4624, 0.4586, 0.4301),
    std=(0.2783, 0.2758, 0.2977),
)
