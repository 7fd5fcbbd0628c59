"""The annotated objects of a photograph: what is read of a data set, and what detections are scored against."""

import itertools
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float64, Int64

from aa_flax.data.masks import RunLengths, mask_of


@dataclass(frozen=True)
class Objects:
    """The objects of a photograph.

    Attributes:
        boxes: x1, y1, x2, y2 in the photograph's pixels, as annotated: neither clipped nor rounded.
        labels: the class of each, counted from 0 in the order of the data set's class names.
        crowd: whether a box is of a group, or (Pascal VOC) of an object too difficult to count; such objects are not
            trained on, and in scores neither found nor missed.
        area: the annotation's area, which for a polygon is that of the polygon; in pixels.
        ids: the annotation's number; 0 where the data set has none.
        segmentations: the mask of each as a text, "" where it has none, see `aa_flax.data.masks`; in the photograph's
            pixels. () where the data set has no masks.
    """

    boxes: Float64[np.ndarray, "n 4"]
    labels: Int64[np.ndarray, " n"]
    crowd: Bool[np.ndarray, " n"]
    area: Float64[np.ndarray, " n"]
    ids: Int64[np.ndarray, " n"]
    segmentations: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.labels)

    def some(self, chosen: Bool[np.ndarray, " n"]) -> "Objects":
        """Return the chosen objects, in order."""
        texts = tuple(itertools.compress(self.segmentations, chosen))
        boxes, labels, crowd = self.boxes[chosen], self.labels[chosen], self.crowd[chosen]
        return Objects(boxes, labels, crowd, self.area[chosen], self.ids[chosen], texts)


@dataclass(frozen=True)
class Truth:
    """What is true of one photograph.

    Attributes:
        image_id: its number, any whole number, different from those of all others of the split.
        file_name: the name of its file, "" where the data set does not say.
        height, width: of the photograph, in whose pixels the boxes are.
        objects: all of its objects.

    Raises:
        ValueError: a box is none.
    """

    image_id: int
    file_name: str
    height: int
    width: int
    objects: Objects

    def __post_init__(self) -> None:
        require_boxes(self.objects.boxes, f"truths of image {self.image_id}")

    @property
    def boxes(self) -> Float64[np.ndarray, "n 4"]:
        """Return the boxes of the objects, x1, y1, x2, y2 in pixels."""
        return self.objects.boxes

    @property
    def labels(self) -> Int64[np.ndarray, " n"]:
        """Return the class of each object, from 0."""
        return self.objects.labels

    @property
    def crowd(self) -> Bool[np.ndarray, " n"]:
        """Return whether a box holds a crowd, of which any number of detections may be part without being wrong."""
        return self.objects.crowd

    @property
    def area(self) -> Float64[np.ndarray, " n"]:
        """Return the area of each object in square pixels, as annotated: in COCO that of its outline."""
        return self.objects.area

    def masks(self) -> list[RunLengths]:
        """Return the mask of each object at the photograph's size; they are made anew each time.

        Raises:
            ValueError: an object has none; the message names it.
        """
        if len(self.objects) and not self.objects.segmentations:
            raise ValueError(f"truths of image {self.image_id}: the data set has no masks")
        masks = []
        for number, text in zip(self.objects.ids.tolist(), self.objects.segmentations, strict=True):
            try:
                masks.append(mask_of(text, (self.height, self.width)))
            except ValueError as error:
                raise ValueError(f"truths of image {self.image_id}: object {number}: {error}") from None
        return masks


def require_boxes(boxes: np.ndarray, of: str) -> None:
    """Raise ValueError, which says `of` what they are, unless all boxes are finite and have their corners in order."""
    bad = ~np.isfinite(boxes).all(1) | (boxes[:, 2] < boxes[:, 0]) | (boxes[:, 3] < boxes[:, 1])
    if bad.any():
        raise ValueError(f"{of}: {boxes[bad][0].tolist()} is no box x1, y1, x2, y2 with x1 <= x2 and y1 <= y2")
