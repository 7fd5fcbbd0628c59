"""The targets of segmentation: the class of each pixel of an image."""

import io
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
import tensorflow_datasets as tfds
from jaxtyping import Float, UInt8
from PIL import Image

from aa_flax.data.errors import DataError, one_line
from aa_flax.data.placement import nearest_pixels
from aa_flax.data.source import Source
from aa_flax.data.targets import Read

IGNORED = 255
"""The label of pixels that belong to no class, which are neither trained on nor scored; padding has it too."""
MOST_CLASSES = IGNORED


class LabelMap:
    """The classes of an image's pixels: {"labels": uint8 [h, w]}, from 0, or `IGNORED`.

    First they are those of the photograph's pixels, [photo height, photo width]; `placed` gives those of what is seen
    of it, and batches are padded with `IGNORED` to the size of their images.

    Args:
        size: (height, width) of the images of a batch.
    """

    maps: Mapping[str, int] = {"labels": IGNORED}
    read_shapes: Mapping[str, jax.ShapeDtypeStruct] = {"labels": jax.ShapeDtypeStruct((), np.object_)}

    def __init__(self, size: tuple[int, int] = (1, 1)):
        if len(size) != 2 or min(size) < 1:
            raise ValueError(f"size is {size}, expected (height, width)")
        self.shapes: Mapping[str, jax.ShapeDtypeStruct] = {"labels": jax.ShapeDtypeStruct((*size,), np.uint8)}

    def reader(self, features: tfds.features.FeaturesDict) -> Read:
        """Return the function that reads the label map of a record; raise DataError unless images have one each."""
        read = label_map_reader(features)
        return lambda record: {"labels": read(record)}

    def placed(self, values: Mapping[str, Any], placement: Float[np.ndarray, "8"]) -> dict[str, Any]:
        """Return the labels of what is seen of a photograph: each pixel has that of the one in which its centre lies.

        Args:
            values: the targets, labels of the photograph's pixels.
            placement: what `Placement.as_array` gave.

        Raises:
            ValueError: the photograph has another size than its label map.
        """
        labels = values["labels"]
        height, width = (int(side) for side in placement[6:8])
        if labels.shape != (height, width):
            raise ValueError(f"a label map of {labels.shape[1]} × {labels.shape[0]} for an image of {width} × {height}")
        rows, columns = nearest_pixels(placement)
        return {"labels": labels.take(rows, 0).take(columns, 1)}


class LabelMaps:
    """The label maps of a split, by which segmentations of its photographs are scored."""

    def __init__(self, source: Source):
        self._source = source

    def require_truths(self) -> None:
        """Raise DataError unless some pixel of some photograph has a class; maps are read until one is found."""
        if not any((self._source.targets(index)["labels"] != IGNORED).any() for index in range(len(self._source))):
            raise DataError(f"{self._source.name}: no pixel has a class, so segmentations have no score")


def find_label_maps(features: tfds.features.FeaturesDict) -> list[str]:
    """Return the names, sorted, of the label maps among the features of a data set."""
    return sorted(key for key, feature in features.items() if isinstance(feature, tfds.features.LabeledImage))


def label_map_reader(features: tfds.features.FeaturesDict) -> Callable[[Mapping[str, Any]], UInt8[np.ndarray, "h w"]]:
    """Return the function that decodes the label map of a record, uint8 [h, w]; its ValueError says what is wrong.

    Raises:
        DataError: the images do not have one label map each.
    """
    found = find_label_maps(features)
    if len(found) != 1:
        raise DataError(
            f"expected exactly one label map, with a class for each pixel; label maps: {', '.join(found) or 'none'}"
        )
    key, num_classes = found[0], features[found[0]].num_classes

    def read(record: Mapping[str, Any]) -> UInt8[np.ndarray, "h w"]:
        labels = decode_label_map(bytes(record[key]))
        if (wrong := labels[(labels >= num_classes) & (labels != IGNORED)]).size:
            raise ValueError(
                f"the label map has the class {wrong[0]}, expected 0 to {num_classes - 1}, or {IGNORED} for none"
            )
        return labels

    return read


def decode_label_map(encoded: bytes) -> UInt8[np.ndarray, "h w"]:
    """Return the labels in a PNG as it is stored, grey of 8 bits.

    Raises:
        ValueError: the bytes are none.
    """
    try:
        with Image.open(io.BytesIO(encoded)) as image:
            mode, labels = image.mode, np.asarray(image)
    # Pillow raises many types for damaged files.
    except Exception as error:
        raise ValueError(f"the label map cannot be decoded ({one_line(error)})") from None
    if mode != "L":
        raise ValueError(f"the label map has pixels of the form {mode}, expected grey of 8 bits")
    return labels


def encode_label_map(labels: UInt8[np.ndarray, "h w"]) -> bytes:
    """Return the bytes of a PNG file of labels."""
    buffer = io.BytesIO()
    Image.fromarray(labels).save(buffer, "png")
    return buffer.getvalue()


def is_mixed(labels: UInt8[np.ndarray, "h w"], most_of_one_class: float) -> bool:
    """Return whether every class has less than a part, `most_of_one_class`, of the pixels that have a class."""
    counts = np.bincount(labels.reshape(-1), minlength=IGNORED + 1)[:IGNORED]
    return bool(counts.max() < most_of_one_class * counts.sum())
