"""The targets of detection: boxes and classes of the objects of an image, in arrays of fixed shapes."""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
import tensorflow_datasets as tfds
from jaxtyping import Float

from aa_flax.data.errors import DataError
from aa_flax.data.objects import box_reader, find_objects
from aa_flax.data.placement import boxes_on_canvas
from aa_flax.data.targets import Read, images


class Boxes:
    """The boxes of an image: {"boxes": float32 [most, 4], "classes": int32 [most], "valid": bool [most]}.

    Boxes are x1, y1, x2, y2, first in the photograph's pixels and from `placed` on in the canvas's. Valid rows come
    first, in the order of the annotations; all others are zeros. Crowds are left out, as are boxes without area.
    An image without objects has no valid row: it shows what is no object.

    Args:
        most: the largest number of objects of an image; more are an error, never cut.
        least_side: the shorter side in pixels of the canvas below which what is left of a box is dropped.
    """

    def __init__(self, most: int = 100, least_side: float = 1.0):
        if most < 1 or not least_side >= 0:
            raise ValueError(f"most is {most} and least_side {least_side}, expected 1 or more and 0 or more")
        self.most, self.least_side = most, least_side
        self.shapes: Mapping[str, jax.ShapeDtypeStruct] = {
            "boxes": jax.ShapeDtypeStruct((most, 4), np.float32),
            "classes": jax.ShapeDtypeStruct((most,), np.int32),
            "valid": jax.ShapeDtypeStruct((most,), np.bool_),
        }

    def reader(self, features: tfds.features.FeaturesDict) -> Read:
        """Return the function that reads the boxes of a record; raise DataError unless images have boxes."""
        forms = find_objects(features)
        if len(forms) != 1:
            has = ", ".join(form.key for form in forms) or "none; this is no data set of detection"
            raise DataError(f"expected one sequence of objects with a box and a class each; there are: {has}")
        read_boxes = box_reader(forms[0], images(features)[0])

        def read(record: Mapping[str, Any]) -> dict[str, Any]:
            boxes, labels, crowd = read_boxes(record)
            kept = ~crowd & (boxes[:, 2:] > boxes[:, :2]).all(1)
            boxes = boxes[kept]
            if len(boxes) > self.most:
                more = "raise task.options.most_objects (`most` of Boxes)"
                raise ValueError(f"{len(boxes)} objects, expected at most {self.most}: {more}")
            return self._filled(boxes, labels[kept])

        return read

    def placed(self, values: Mapping[str, Any], placement: Float[np.ndarray, "8"]) -> dict[str, Any]:
        """Return the targets of an image that lies on a canvas: its boxes moved along and clipped to what is seen.

        Boxes of which less than `least_side` is seen in height or width are dropped.

        Args:
            values: the targets, boxes in the photograph's pixels.
            placement: what `Placement.as_array` gave.
        """
        valid = np.asarray(values["valid"])
        height, width = placement[4:6]
        boxes = boxes_on_canvas(np.asarray(values["boxes"])[valid], placement)
        clipped = np.clip(boxes, 0, np.array([width, height, width, height], np.float64)).astype(np.float32)
        sides = clipped[:, 2:] - clipped[:, :2]
        seen = (sides > 0).all(1) & (sides >= self.least_side).all(1)
        return self._filled(clipped[seen], np.asarray(values["classes"])[valid][seen])

    def _filled(self, boxes: np.ndarray, classes: np.ndarray) -> dict[str, Any]:
        """Return boxes [n, 4] and classes [n] as targets, whose other rows are zeros."""
        filled = {name: np.zeros(each.shape, each.dtype) for name, each in self.shapes.items()}
        filled["boxes"][: len(boxes)] = boxes
        filled["classes"][: len(boxes)] = classes
        filled["valid"][: len(boxes)] = True
        return filled
