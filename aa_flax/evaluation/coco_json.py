"""Detections in COCO's results format, which its server and every tool for COCO reads.

It is one JSON list: {"image_id": 42, "category_id": 18, "bbox": [x, y, width, height], "score": 0.236}, boxes in the
photograph's pixels. Masks have a file of their own, in which "segmentation", the run lengths, is in the place of
"bbox": COCO's tools take a detection that has both to be as large as its box.
"""

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from aa_flax.data.masks import RunLengths, from_values
from aa_flax.evaluation.coco import Of
from aa_flax.evaluation.detections import Found, check_labels, corner_and_sides
from aa_flax.json_values import to_json


def results_json(found: Mapping[int, Found], category_ids: Sequence[int], of: Of = "boxes") -> str:
    """Return detections in COCO's results format, a detection a line: by photograph, then by falling score.

    Numbers have all their digits, so that scores of the file are those of the run.

    Args:
        found: by the photograph's id in the annotations.
        category_ids: of each class, in the order of labels, as the annotations number them; COCO's have gaps.
        of: what is written, boxes or masks.

    Raises:
        ValueError: a detection is of a class that has no category, or has no mask.
    """
    lines = []
    for image_id in sorted(found):
        one = found[image_id]
        check_labels(one.labels, len(category_ids), f"detections of image {image_id}")
        if of == "masks" and one.masks is None and len(one):
            raise ValueError(f"detections of image {image_id} have no masks")
        boxes = corner_and_sides(one.boxes).tolist()
        for k in np.argsort(-one.scores, kind="stable").tolist():
            row = {
                "image_id": int(image_id),
                "category_id": int(category_ids[one.labels[k]]),
                **({"bbox": boxes[k]} if of == "boxes" else {"segmentation": (one.masks or ())[k].values()}),
                "score": float(one.scores[k]),
            }
            lines.append(to_json(row))
    return "[" + ",\n".join(lines) + "]\n"


def read_results(text: str, category_ids: Sequence[int]) -> dict[int, Found]:
    """Return the detections of a text in COCO's results format, by the photograph's id.

    Args:
        text: of the file.
        category_ids: of each class, in the order of labels.

    Raises:
        ValueError: the text is no such list, or a category is none of `category_ids`.
    """
    rows = json.loads(text)
    if not isinstance(rows, list):
        raise ValueError(f"results must be a JSON list of detections, got {type(rows).__name__}")
    labels = {number: label for label, number in enumerate(category_ids)}
    by_image: dict[int, list[_Row]] = {}
    for place, row in enumerate(rows):
        try:
            one = _row(row, labels)
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(
                f"results: row {place} is no detection with image_id, category_id, score, and bbox "
                f"[x, y, width, height] or segmentation: {_shown(row)}"
            ) from error
        if not all(map(math.isfinite, (*one.box, one.score))) or one.box[2] < one.box[0] or one.box[3] < one.box[1]:
            raise ValueError(f"results: row {place} has a number that is not finite, or a negative side: {_shown(row)}")
        if one.label is None:
            known = ", ".join(map(str, category_ids))
            raise ValueError(f"results: row {place} has category_id {row['category_id']!r}; the classes have {known}")
        by_image.setdefault(row["image_id"], []).append(one)
    return {image_id: _found(image_id, some) for image_id, some in by_image.items()}


class _Row(NamedTuple):
    """A detection of a file; `label` is None if the category is unknown."""

    box: tuple[float, float, float, float]
    score: float
    label: int | None
    mask: RunLengths | None


def _row(row: Any, labels: Mapping[int, int]) -> _Row:
    mask = from_values(row["segmentation"]) if "segmentation" in row else None
    if mask is None or "bbox" in row:
        x, y, width, height = (float(number) for number in row["bbox"])
        box = x, y, x + width, y + height
    else:
        box = mask.box
    _ = row["image_id"]
    return _Row(box, float(row["score"]), labels.get(row["category_id"]), mask)


def _found(image_id: int, rows: list[_Row]) -> Found:
    masks = tuple(row.mask for row in rows if row.mask is not None)
    if masks and len(masks) < len(rows):
        raise ValueError(f"results: some detections of image {image_id} have masks and some have none")
    boxes, scores, numbers, _ = zip(*rows, strict=True)
    arrays = np.array(boxes, np.float64), np.array(scores, np.float64), np.array(numbers, np.int64)
    return Found(*arrays, masks or None)


def _shown(row: Any) -> str:
    text = repr(row)
    return text if len(text) <= 120 else f"{text[:117]}..."
