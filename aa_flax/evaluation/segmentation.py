"""Scores of a segmentation, which follow from one table of counts: how often pixels of a class were given which class.

Tables of several images, or of several processes, are added. The definitions are those of mmsegmentation's `IoUMetric`.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int64, Integer

from aa_flax.data.label_maps import IGNORED


@dataclass(frozen=True)
class SegmentationScores:
    """The scores of a segmentation, each a fraction from 0 to 1.

    Attributes:
        mean_iou: the mean of `iou` over the classes that have one.
        mean_accuracy: the mean of `accuracy` over the classes that have one.
        pixel_accuracy: the part of all counted pixels that were given their class.
        iou: of each class, the pixels that were rightly given it, over those that have it or were given it; None of a
            class that no pixel has or was given.
        accuracy: of each class, the part of its pixels that were given it; None of a class that no pixel has.
    """

    mean_iou: float
    mean_accuracy: float
    pixel_accuracy: float
    iou: tuple[float | None, ...]
    accuracy: tuple[float | None, ...]


def confusion(
    predicted: Integer[np.ndarray, "..."], labels: Integer[np.ndarray, "..."], num_classes: int, ignore: int = IGNORED
) -> Int64[np.ndarray, "classes classes"]:
    """Count the pixels of each class (row) that were given each class (column).

    Args:
        predicted: the class given to each pixel, 0 to num_classes - 1, of ignored pixels too.
        labels: the class of each pixel, or `ignore`, which is not counted.
        num_classes: the number of classes.
        ignore: the label of pixels that belong to no class.

    Raises:
        ValueError: the shapes differ, or a class or label is out of range; the message has the number.
    """
    if predicted.shape != labels.shape:
        raise ValueError(f"classes were given to pixels {predicted.shape}, and the labels are of {labels.shape}")
    _require_classes(predicted, num_classes, "predicted is the class")
    counted = labels != ignore
    rows, columns = labels[counted], predicted[counted]
    _require_classes(rows, num_classes, "labels have the class")
    cells = rows.astype(np.int64) * num_classes + columns
    return np.bincount(cells, minlength=num_classes**2).astype(np.int64).reshape(num_classes, num_classes)


def scores(confusion: Integer[np.ndarray, "classes classes"]) -> SegmentationScores:
    """Return the scores that follow from the counts of all images together, not the mean of scores of each.

    Raises:
        ValueError: no pixel was counted.
    """
    counts = np.asarray(confusion, np.int64)
    if not counts.sum():
        raise ValueError("no pixel was counted: all have an ignored label, so the segmentation has no score")
    right, true, given = np.diag(counts), counts.sum(1), counts.sum(0)
    iou, accuracy = _quotients(right, true + given - right), _quotients(right, true)
    return SegmentationScores(_mean(iou), _mean(accuracy), float(right.sum() / counts.sum()), iou, accuracy)


def _require_classes(classes: np.ndarray, num_classes: int, what: str) -> None:
    if classes.size and not (classes.min() >= 0 and classes.max() < num_classes):
        wrong = classes[(classes < 0) | (classes >= num_classes)]
        raise ValueError(f"{what} {wrong[0]} of {wrong.size:,} pixels, expected 0 to {num_classes - 1}")


def _quotients(parts: np.ndarray, wholes: np.ndarray) -> tuple[float | None, ...]:
    return tuple(float(part / whole) if whole else None for part, whole in zip(parts, wholes, strict=True))


def _mean(values: Sequence[float | None]) -> float:
    there = [value for value in values if value is not None]
    return sum(there) / len(there)
