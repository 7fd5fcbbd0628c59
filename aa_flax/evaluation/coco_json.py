"""Detections in COCO's results format, which its server and every tool for COCO reads.

It is one JSON list: {"image_id": 42, "category_id": 18, "bbox": [x, y, width, height], "score": 0.236}, boxes in the
photograph's pixels.
"""

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from aa_flax.evaluation.detections import Found, check_labels, corner_and_sides
from aa_flax.json_values import to_json


def results_json(found: Mapping[int, Found], category_ids: Sequence[int]) -> str:
    """Return detections in COCO's results format, a detection a line: by photograph, then by falling score.

    Numbers have all their digits, so that scores of the file are those of the run.

    Args:
        found: by the photograph's id in the annotations.
        category_ids: of each class, in the order of labels, as the annotations number them; COCO's have gaps.

    Raises:
        ValueError: a detection is of a class that has no category.
    """
    lines = []
    for image_id in sorted(found):
        one = found[image_id]
        check_labels(one.labels, len(category_ids), f"detections of image {image_id}")
        boxes = corner_and_sides(one.boxes).tolist()
        for k in np.argsort(-one.scores, kind="stable").tolist():
            row = {
                "image_id": int(image_id),
                "category_id": int(category_ids[one.labels[k]]),
                "bbox": boxes[k],
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
    by_image: dict[int, list[tuple[list[float], float, int]]] = {}
    for place, row in enumerate(rows):
        try:
            (x, y, width, height), score = (float(number) for number in row["bbox"]), float(row["score"])
            image_id, category = row["image_id"], row["category_id"]
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(
                f"results: row {place} is no detection with image_id, category_id, bbox [x, y, width, height] and "
                f"score: {_shown(row)}"
            ) from error
        if not all(map(math.isfinite, (x, y, width, height, score))) or min(width, height) < 0:
            raise ValueError(f"results: row {place} has a number that is not finite, or a negative side: {_shown(row)}")
        if category not in labels:
            known = ", ".join(map(str, category_ids))
            raise ValueError(f"results: row {place} has category_id {category!r}; the classes have {known}")
        by_image.setdefault(image_id, []).append(([x, y, x + width, y + height], score, labels[category]))
    return {image_id: _found(some) for image_id, some in by_image.items()}


def _found(rows: list[tuple[list[float], float, int]]) -> Found:
    boxes, scores, labels = zip(*rows, strict=True)
    return Found(np.array(boxes, np.float64), np.array(scores, np.float64), np.array(labels, np.int64))


def _shown(row: Any) -> str:
    text = repr(row)
    return text if len(text) <= 120 else f"{text[:117]}..."
