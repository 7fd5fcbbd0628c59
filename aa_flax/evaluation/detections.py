"""What a detector found in a photograph, in the photograph's own pixels, beside what is to be found there."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64, Int

from aa_flax.data.annotated import Truth, require_boxes
from aa_flax.data.masks import RunLengths


@dataclass(frozen=True)
class Found:
    """What a detector found in one photograph, in any order.

    Attributes:
        boxes: x1, y1, x2, y2 of each detection, in the photograph's pixels.
        scores: of each detection; larger is surer.
        labels: the class of each detection, from 0.
        masks: of each detection, of the photograph's size; None of a detector of boxes alone.
    """

    boxes: Float64[np.ndarray, "k 4"]
    scores: Float64[np.ndarray, " k"]
    labels: Int[np.ndarray, " k"]
    masks: tuple[RunLengths, ...] | None = None

    def __post_init__(self) -> None:
        require_boxes(self.boxes, "detections")
        if np.isnan(self.scores).any():
            raise ValueError("detections: a score is NaN; scores must be numbers that can be compared")
        if self.masks is not None and len(self.masks) != len(self.scores):
            raise ValueError(f"detections: {len(self.masks)} masks of {len(self.scores)}; each or none has one")

    def __len__(self) -> int:
        return len(self.scores)

    def some(self, chosen: Int[np.ndarray, " n"]) -> "Found":
        """Return the detections of some numbers, in their order."""
        masks = None if self.masks is None else tuple(self.masks[k] for k in chosen)
        return Found(self.boxes[chosen], self.scores[chosen], self.labels[chosen], masks)


def in_order(truths: Sequence[Truth], found: Mapping[int, Found], classes: int) -> list[tuple[Truth, Found]]:
    """Return each photograph's truth and what was found there, by rising number of the photograph.

    Args:
        truths: of every photograph of the set; no two of one photograph.
        found: by `Truth.image_id`; a photograph may lack, where nothing was found.
        classes: how many there are.

    Raises:
        ValueError: there is no photograph or no object, a photograph has two truths, detections belong to none of the
            photographs, or a class is unknown.
    """
    if not truths:
        raise ValueError("truths: the set has no photographs, so nothing can be scored")
    ids = [truth.image_id for truth in truths]
    if len(set(ids)) < len(ids):
        twice = sorted({number for number in ids if ids.count(number) > 1})
        raise ValueError(f"truths: more than one of image {_some(twice)}; each photograph has one")
    if strange := sorted(set(found) - set(ids)):
        raise ValueError(
            f"found: detections of image {_some(strange)}, which the truths do not have; they have {_some(sorted(ids))}"
        )
    for truth in truths:
        check_labels(truth.labels, classes, f"truths of image {truth.image_id}")
    for number, one in found.items():
        check_labels(one.labels, classes, f"detections of image {number}")
    if not any((~truth.crowd).any() for truth in truths):
        raise ValueError(
            f"truths: none of the {len(truths)} photographs has an annotated object; a set without them has no AP"
        )
    nothing = Found(np.zeros((0, 4)), np.zeros(0), np.zeros(0, np.int64))
    return [(truth, found.get(truth.image_id, nothing)) for truth in sorted(truths, key=lambda one: one.image_id)]


def corner_and_sides(boxes: Float64[np.ndarray, "n 4"]) -> Float64[np.ndarray, "n 4"]:
    """Return boxes x1, y1, x2, y2 as x, y, width and height, which COCO's files have.

    Sides are rounded to nine decimals, so that a box that was read from a file has the numbers that stood there: its
    overlap may be a threshold to the last bit.
    """
    return np.concatenate([boxes[:, :2], (boxes[:, 2:] - boxes[:, :2]).round(9)], 1)


def check_labels(labels: Int[np.ndarray, " n"], classes: int, of: str) -> None:
    """Raise ValueError, which says `of` what they are, if labels are not from 0 to `classes` - 1."""
    bad = (labels < 0) | (labels >= classes)
    if bad.any():
        raise ValueError(f"{of}: class {labels[bad][0]}; the {classes} classes are numbered from 0 to {classes - 1}")


def _some(numbers: Sequence[int]) -> str:
    return ", ".join(map(str, numbers[:3])) + (f" and {len(numbers) - 3} more" if len(numbers) > 3 else "")
