"""Fashion-MNIST (Xiao, Rasul and Vollgraf, 2017): the four official files, or the embedded subset in their format."""

from collections.abc import Iterator, Mapping
from pathlib import Path

from aa_flax.data.errors import DataError
from aa_flax.data.images import encode_png
from aa_flax.data.sets.builder import Example, Origin, require_files
from aa_flax.data.sets.idx import read_idx

_OFFICIAL_SPLITS = {"train": "train", "test": "t10k"}


class FashionMnist(Origin):
    """Fashion-MNIST: 60,000 + 10,000 grey 28 × 28 images of 10 kinds of clothing, from the official files."""

    stored_name = "aa_fashion_mnist"
    description = "Fashion-MNIST: grey 28 × 28 images of clothing, 10 classes, from the official IDX files."
    homepage = "https://github.com/zalandoresearch/fashion-mnist"
    image_shape = (28, 28, 1)

    def __init__(self, folder: Path):
        names = [
            f"{name}-{kind}"
            for name in _OFFICIAL_SPLITS.values()
            for kind in ("images-idx3-ubyte", "labels-idx1-ubyte")
        ]
        packed = any((folder / f"{name}.gz").is_file() for name in names)
        self._paths = require_files(folder, [f"{name}.gz" if packed else name for name in names], "Fashion-MNIST")

    @property
    def files(self) -> list[Path]:
        return self._paths

    @property
    def class_names(self) -> list[str]:
        return [
            "T-shirt/top",
            "Trouser",
            "Pullover",
            "Dress",
            "Coat",
            "Sandal",
            "Shirt",
            "Sneaker",
            "Bag",
            "Ankle boot",
        ]

    def splits(self) -> Mapping[str, Iterator[Example]]:
        return {
            split: self._examples(*self._paths[2 * number : 2 * number + 2])
            for number, split in enumerate(_OFFICIAL_SPLITS)
        }

    def _examples(self, image_file: Path, label_file: Path) -> Iterator[Example]:
        images, labels = read_idx(image_file, rank=3), read_idx(label_file, rank=1)
        if images.shape[1:] != self.image_shape[:2]:
            raise DataError(f"{image_file}: images of {images.shape[1]} × {images.shape[2]}, expected 28 × 28")
        if len(images) != len(labels):
            raise DataError(f"{label_file}: {len(labels)} labels for the {len(images)} images of {image_file.name}")
        for index, (image, label) in enumerate(zip(images, labels, strict=True)):
            yield encode_png(image[..., None]), self.checked_label(int(label), label_file, index)


class FashionMnistSubset(FashionMnist):
    """The embedded subset: 8,000 + 2,000 images, equally many of each class (`embedded/make_subset.py` chose them)."""

    stored_name = "aa_fashion_mnist_subset"
    description = "A stratified subset of Fashion-MNIST: 800 training and 200 test images of each of the 10 classes."

    def __init__(self) -> None:
        super().__init__(Path(__file__).parent / "embedded")
