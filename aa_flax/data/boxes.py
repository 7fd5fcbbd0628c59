"""The targets of detection: boxes, classes and masks of the objects of an image, in arrays of fixed shapes."""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
import tensorflow_datasets as tfds
from jaxtyping import Float, UInt8

from aa_flax.data.errors import DataError
from aa_flax.data.masks import cropped
from aa_flax.data.objects import box_reader, find_objects, segmentations
from aa_flax.data.placement import boxes_in_photo, boxes_on_canvas
from aa_flax.data.targets import Read, images


class Boxes:
    """The boxes of an image: {"boxes": float32 [most, 4], "classes": int32 [most], "valid": bool [most]}.

    Boxes are x1, y1, x2, y2, first in the photograph's pixels and from `placed` on in the canvas's. Valid rows come
    first, in the order of the annotations; all others are zeros. Crowds are left out, as are boxes without area.
    An image without objects has no valid row: it shows what is no object.

    With `masks` there is "masks" uint8 [most, mask_side, mask_side] besides, 0 and 1: what of each mask lies in the box
    as it is on the canvas, stretched to a square. An object without mask is an error. Before they are placed, they are
    the texts that the data set has, see `aa_flax.data.masks`, in an array of objects [most].

    Args:
        most: the largest number of objects of an image; more are an error, never cut.
        least_side: the shorter side in pixels of the canvas below which what is left of a box is dropped.
        masks: whether there are masks.
        mask_side: cells across and down a mask; four for each of a network's 28 tell its border to a quarter.
    """

    def __init__(self, most: int = 100, least_side: float = 1.0, masks: bool = False, mask_side: int = 112):
        if most < 1 or not least_side >= 0:
            raise ValueError(f"most is {most} and least_side {least_side}, expected 1 or more and 0 or more")
        if mask_side < 1:
            raise ValueError(f"mask_side is {mask_side}, expected 1 or more")
        self.most, self.least_side, self.masks, self.mask_side = most, least_side, masks, mask_side
        self.shapes: Mapping[str, jax.ShapeDtypeStruct] = {
            "boxes": jax.ShapeDtypeStruct((most, 4), np.float32),
            "classes": jax.ShapeDtypeStruct((most,), np.int32),
            "valid": jax.ShapeDtypeStruct((most,), np.bool_),
        }
        self.read_shapes = self.shapes
        if masks:
            texts = jax.ShapeDtypeStruct((most,), np.dtype(object))
            squares = jax.ShapeDtypeStruct((most, mask_side, mask_side), np.uint8)
            self.read_shapes, self.shapes = {**self.shapes, "masks": texts}, {**self.shapes, "masks": squares}

    def reader(self, features: tfds.features.FeaturesDict) -> Read:
        """Return the function that reads the boxes of a record; raise DataError unless images have boxes."""
        forms = find_objects(features)
        if len(forms) != 1:
            has = ", ".join(form.key for form in forms) or "none; this is no data set of detection"
            raise DataError(f"expected one sequence of objects with a box and a class each; there are: {has}")
        form, read_boxes = forms[0], box_reader(forms[0], images(features)[0])
        if self.masks and not form.segmentation:
            raise DataError(
                f"the objects ({form.key!r}) have boxes and no masks, which the network needs; COCO as the TFDS "
                "catalogue has it has none, its own JSON has: coco_json/NAME"
            )

        def read(record: Mapping[str, Any]) -> dict[str, Any]:
            boxes, labels, crowd = read_boxes(record)
            kept = ~crowd & (boxes[:, 2:] > boxes[:, :2]).all(1)
            boxes, texts = boxes[kept], np.array(segmentations(form, record), object)[kept] if self.masks else None
            if len(boxes) > self.most:
                more = "raise task.options.most_objects (`most` of Boxes)"
                raise ValueError(f"{len(boxes)} objects, expected at most {self.most}: {more}")
            if texts is not None and not all(texts):
                raise ValueError(f"object {np.flatnonzero(kept)[texts == ''][0]} has no mask, which the network needs")
            return self._filled(self.read_shapes, boxes, labels[kept], texts)

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
        masks = self._cropped(values["masks"][valid][seen], clipped[seen], placement) if self.masks else None
        return self._filled(self.shapes, clipped[seen], np.asarray(values["classes"])[valid][seen], masks)

    def _cropped(
        self, texts: np.ndarray, boxes: Float[np.ndarray, "n 4"], placement: Float[np.ndarray, "8"]
    ) -> UInt8[np.ndarray, "n side side"]:
        """Return what of masks lies in boxes on the canvas, as squares."""
        size = int(placement[6]), int(placement[7])
        squares = [
            cropped(text, box, size, self.mask_side)
            for text, box in zip(texts, boxes_in_photo(boxes.astype(np.float64), placement), strict=True)
        ]
        return np.array(squares, np.uint8).reshape(len(boxes), self.mask_side, self.mask_side)

    def _filled(
        self,
        shapes: Mapping[str, jax.ShapeDtypeStruct],
        boxes: np.ndarray,
        classes: np.ndarray,
        masks: np.ndarray | None = None,
    ) -> dict[str, Any]:
        """Return boxes [n, 4], classes [n] and masks [n, ...] as targets, whose other rows are zeros, or ""."""
        filled = {
            name: np.full(each.shape, "" if each.dtype == object else 0, each.dtype) for name, each in shapes.items()
        }
        filled["boxes"][: len(boxes)] = boxes
        filled["classes"][: len(boxes)] = classes
        filled["valid"][: len(boxes)] = True
        if masks is not None:
            filled["masks"][: len(boxes)] = masks
        return filled
