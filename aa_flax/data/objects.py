"""The objects of photographs, a box and a class each, as the records of detection data sets have them.

Two forms are read. This library's has boxes in float64 in the pixels of the upright photograph, as they were annotated.
The TFDS catalogue's (`coco`, `voc` and others) has them in float32 as parts of the photograph's height and width.
"""

import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image

from aa_flax.data.annotated import Objects

_CROWD = ("crowd", "is_crowd", "is_difficult")


@dataclass(frozen=True)
class ObjectFeatures:
    """Where the records of a data set have their objects.

    Attributes:
        key: the name of the sequence of objects.
        box, label: the names of box and class of an object.
        relative: whether boxes are y1, x1, y2, x2 as parts of the photograph's height and width.
        crowd, area, id, segmentation: the names of these features; "" where there is none.
        classes: the feature of the class.
    """

    key: str
    box: str
    label: str
    relative: bool
    crowd: str
    area: str
    id: str
    segmentation: str
    classes: tfds.features.ClassLabel


def find_objects(features: tfds.features.FeaturesDict) -> list[ObjectFeatures]:
    """Return where the records of a data set have objects with a box and a class each, sorted by name."""
    found = []
    for key, feature in sorted(features.items()):
        each = feature.feature if type(feature) is tfds.features.Sequence else None
        if isinstance(each, tfds.features.FeaturesDict) and (form := _form(key, each)):
            found.append(form)
    return found


def _form(key: str, each: tfds.features.FeaturesDict) -> ObjectFeatures | None:
    boxes = [name for name, feature in each.items() if type(feature) is tfds.features.BBoxFeature]
    own = "box" in each and tuple(each["box"].shape) == (4,) and each["box"].np_dtype == np.float64
    # Pascal VOC's objects have the class "pose" besides.
    classes = sorted(name for name, feature in each.items() if type(feature) is tfds.features.ClassLabel)
    label = "label" if "label" in classes else classes[0] if len(classes) == 1 else ""
    if not label or (len(boxes) != 1 and not own):
        return None
    crowd = next((name for name in _CROWD if name in each), "")
    return ObjectFeatures(
        key=key,
        box="box" if own else boxes[0],
        label=label,
        relative=not own,
        crowd=crowd,
        area="area" if "area" in each else "",
        id="id" if "id" in each else "",
        segmentation="segmentation"
        if "segmentation" in each and type(each["segmentation"]) is tfds.features.Text
        else "",
        classes=each[label],
    )


def object_reader(form: ObjectFeatures, image_key: str) -> Callable[[Mapping[str, Any]], Objects]:
    """Return the function that reads the objects of a record, whose image is still encoded.

    It raises ValueError, which names the object, if a class or a box is none.
    """
    read_boxes = box_reader(form, image_key)

    def read(record: Mapping[str, Any]) -> Objects:
        stored, (boxes, labels, crowd) = record[form.key], read_boxes(record)
        area = _array(stored[form.area], np.float64) if form.area else None
        return Objects(
            boxes=boxes,
            labels=labels,
            crowd=crowd,
            area=(boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]) if area is None else area,
            ids=_array(stored[form.id], np.int64) if form.id else np.zeros(len(boxes), np.int64),
            segmentations=segmentations(form, record),
        )

    return read


def segmentations(form: ObjectFeatures, record: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the segmentation of each object of a record as text, see `aa_flax.data.masks`; () if it has none."""
    if not form.segmentation:
        return ()
    return tuple(bytes(text).decode() for text in record[form.key][form.segmentation])


def box_reader(
    form: ObjectFeatures, image_key: str
) -> Callable[[Mapping[str, Any]], tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Return the function that reads boxes, labels and crowd of the objects of a record, as in `Objects`.

    It raises ValueError, which names the object, if a class or a box is none.
    """

    def read(record: Mapping[str, Any]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        stored = record[form.key]
        boxes = _array(stored[form.box], np.float64, (4,))
        if form.relative and len(boxes):
            height, width = stored_size(record[image_key])
            boxes = boxes[:, [1, 0, 3, 2]] * np.array([width, height, width, height], np.float64)
        labels = _array(stored[form.label], np.int64)
        _check(boxes, labels, form.classes.num_classes)
        return boxes, labels, _array(stored[form.crowd], np.bool_) if form.crowd else np.zeros(len(boxes), np.bool_)

    return read


def _array(values: Sequence[Any] | np.ndarray, dtype: Any, shape: tuple[int, ...] = ()) -> np.ndarray:
    """Return a feature of all objects as an array, which is [0, ...] where there are none."""
    return np.asarray(values, dtype).reshape(len(values), *shape)


def _check(boxes: np.ndarray, labels: np.ndarray, num_classes: int) -> None:
    for number in np.flatnonzero((labels < 0) | (labels >= num_classes)):
        raise ValueError(f"object {number} has the class {labels[number]}, expected 0 to {num_classes - 1}")
    good = np.isfinite(boxes).all(1) & (boxes[:, 2:] >= boxes[:, :2]).all(1)
    for number in np.flatnonzero(~good):
        raise ValueError(f"object {number} has the box {boxes[number].tolist()}, expected x1 ≤ x2 and y1 ≤ y2")


def stored_size(encoded: bytes) -> tuple[int, int]:
    """Return the (height, width) of an encoded image as it is decoded, from its first bytes.

    Raises:
        ValueError: the bytes are no image.
    """
    try:
        with Image.open(io.BytesIO(encoded)) as image:
            return image.height, image.width
    # Pillow raises many types for damaged files.
    except Exception:
        raise ValueError("the size of the image cannot be read") from None
