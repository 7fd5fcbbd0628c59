"""The objects that a detector found in one photograph, and the words for them."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from aa_flax.data.masks import RunLengths, encoded
from aa_flax.data.placement import boxes_in_photo
from aa_flax.evaluation.pasting import paste


@dataclass(frozen=True)
class FoundObjects:
    """The objects found in one photograph, in falling score.

    Attributes:
        boxes: x1, y1, x2, y2 in the photograph's own pixels.
        scores: between 0 and 1.
        labels: the number of each one's class.
        squares: of a detector of masks, the probabilities for the cells of each box.
        masks: the same as pixels of the photograph, once they are in it.
        size: (height, width) of the photograph, likewise.
    """

    boxes: Float[np.ndarray, "n 4"]
    scores: Float[np.ndarray, " n"]
    labels: Int[np.ndarray, " n"]
    squares: Float[np.ndarray, "n m m"] | None = None
    masks: tuple[RunLengths, ...] | None = None
    size: tuple[int, int] = (0, 0)

    def at_least(self, threshold: float) -> "FoundObjects":
        """Return those with a score of the threshold or more."""
        kept = self.scores >= threshold
        squares = None if self.squares is None else self.squares[kept]
        masks = None if self.masks is None else tuple(itertools.compress(self.masks, kept))
        return FoundObjects(self.boxes[kept], self.scores[kept], self.labels[kept], squares, masks, self.size)

    def lines(self, names: Sequence[str]) -> list[str]:
        """Return a line for each: score, class, and box in the photograph's pixels."""
        rows = zip(self.scores, self.labels, self.boxes.tolist(), strict=True)
        return [
            f"  {100 * score:6.2f} %  {names[label]}  {box[0]:.1f}, {box[1]:.1f} to {box[2]:.1f}, {box[3]:.1f}"
            for score, label, box in rows
        ]

    def captions(self, names: Sequence[str]) -> list[tuple[int, str]]:
        """Return the number of the class, and its name and the score, of each."""
        rows = zip(self.labels.tolist(), self.scores, strict=True)
        return [(label, f"{names[label]}\n{100 * score:.1f} %") for label, score in rows]

    def values(self, names: Sequence[str], category_ids: Sequence[int]) -> list[dict[str, Any]]:
        """Return box, score, class, label and category id of each, and its mask if it has one, as JSON has them."""
        masks = (
            [{}] * len(self.scores) if self.masks is None else [{"segmentation": each.values()} for each in self.masks]
        )
        rows = zip(self.boxes.tolist(), self.scores.tolist(), self.labels.tolist(), masks, strict=True)
        return [
            {
                "box": box,
                "score": score,
                "class": names[label],
                "label": label,
                "category_id": category_ids[label],
                **mask,
            }
            for box, score, label, mask in rows
        ]


def labelled(row: Mapping[str, Any], labels: Int[np.ndarray, " columns"]) -> dict[str, np.ndarray]:
    """Return rows of detections with classes in the place of columns; those of a column without class are invalid.

    Args:
        row: "boxes", "scores", "classes" (columns of the network's class scores, -1 for none) and "valid".
        labels: the class of each column, -1 for none.
    """
    columns = np.asarray(row["classes"])
    classes = np.where(columns >= 0, labels[np.maximum(columns, 0)], -1)
    return {**row, "classes": classes, "valid": np.asarray(row["valid"]) & (classes >= 0)}


def on_canvas(row: Mapping[str, Any], labels: Int[np.ndarray, " columns"]) -> FoundObjects:
    """Return the objects of one image's row, with boxes in pixels of its canvas."""
    found = labelled(row, labels)
    kept = found["valid"]
    boxes = np.asarray(found["boxes"], np.float64)[kept]
    squares = np.asarray(row["masks"])[kept] if "masks" in row else None
    return FoundObjects(boxes, np.asarray(found["scores"])[kept], found["classes"][kept], squares)


def in_photo(objects: FoundObjects, placement: Float[np.ndarray, "8"]) -> FoundObjects:
    """Return objects on a canvas in the photograph's own pixels, clipped to it."""
    height, width = size = int(placement[6]), int(placement[7])
    boxes, masks = boxes_in_photo(objects.boxes, placement), None
    if objects.squares is not None:
        masks = tuple(encoded(paste(*each, size)) for each in zip(objects.squares, boxes, strict=True))
    boxes = np.clip(boxes, 0, np.array([width, height, width, height], np.float64))
    return FoundObjects(boxes, objects.scores, objects.labels, objects.squares, masks, size)
