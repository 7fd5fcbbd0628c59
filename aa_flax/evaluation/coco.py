"""COCO's twelve numbers of a detector, of its boxes or of its masks, from hotcoco.

Three libraries are kept. They give the same numbers to the last bit, on COCO's fixture and on 5,000 made photographs
with 100 detections each, for which they need this (processor time, and memory beside the set itself):

| | seconds | GB | licence | wheels for Python 3.11 to 3.13 on Linux, macOS and Windows |
|---|---|---|---|---|
| pycocotools 2.0.11, COCO's own | 53 | 1.9 | BSD | yes; one for all versions from 3.12 on |
| faster-coco-eval 1.8.0 | 6.7 | 0.8 | Apache 2.0 | yes, one a version; on Linux from glibc 2.27 on |
| hotcoco 1.3.0 | 0.7 | 0.2 | MIT | yes, one for all versions |

hotcoco costs nothing beside a training, and has the masks and polygons of COCO's files too. It is the youngest, so only
calls are used that all three have: with another import the others serve. Tests hold the numbers against loops. As with
JAX, a process that was forked from one that has used it must not: its threads are gone.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, overload

import numpy as np
from jaxtyping import Float64, Int

from aa_flax.data.annotated import Truth
from aa_flax.data.masks import RunLengths, require_library
from aa_flax.evaluation.detections import Found, corner_and_sides, in_order

_RANGES = ("", "_small", "_medium", "_large")
"""Ends of the names of scores; the areas are all, up to 32², from there to 96², and from there."""


Of = Literal["boxes", "masks"]


@dataclass(frozen=True)
class CocoScores:
    """The scores of a detector on a set of photographs.

    Attributes:
        values: COCO's twelve numbers by name, from 0 to 1: "AP", the mean over ten overlaps, "AP50", "AP75",
            "AP_small", "AP_medium", "AP_large"; "AR1", "AR10" and "AR100", the mean recall with so many detections of a
            photograph and class, "AR_small", "AR_medium", "AR_large". None where no object has such a size. Those of
            masks begin with "mask_".
        by_class: AP of each class, None of a class without objects.
        by_class_50: AP50 of each class, likewise.
        precision_50: precision of each class at recalls 0, 0.01, ..., 1, at an overlap of 0.5; 0 where the recall is
            not reached.
        truths: how many objects each class has, crowds apart.
        photographs: how many were scored.
        max_detections: how many detections of a photograph and class count.
    """

    values: Mapping[str, float | None]
    by_class: tuple[float | None, ...]
    by_class_50: tuple[float | None, ...]
    precision_50: Float64[np.ndarray, "classes 101"]
    truths: Int[np.ndarray, " classes"]
    photographs: int
    max_detections: int


@overload
def evaluate(
    truths: None, found: Mapping[int, Found], class_names: Sequence[str], max_detections: int = 100, of: Of = "boxes"
) -> None: ...
@overload
def evaluate(
    truths: Sequence[Truth],
    found: Mapping[int, Found],
    class_names: Sequence[str],
    max_detections: int = 100,
    of: Of = "boxes",
) -> CocoScores: ...
def evaluate(
    truths: Sequence[Truth] | None,
    found: Mapping[int, Found],
    class_names: Sequence[str],
    max_detections: int = 100,
    of: Of = "boxes",
) -> CocoScores | None:
    """Return the scores of what a detector found in photographs, or None if they have no annotations.

    Args:
        truths: of every photograph of the set, in any order; None for a set without annotations, such as COCO's
            test-dev.
        found: by `Truth.image_id`; a photograph may lack, where nothing was found.
        class_names: of every class, in the order of labels.
        max_detections: how many of the surest detections of each class count in a photograph, 100 in COCO, more than
            10. A detector that keeps 100 of all classes together has cut more.
        of: whether detections and objects overlap by their boxes or by their masks; the latter are of the photographs'
            size, and a detection is as large as its mask.

    Raises:
        ValueError: no photographs or no objects, detections of photographs that are not in the set, unknown classes;
            masks are asked for and an object or a detection has none, or one of another size.
        MissingLibrary: hotcoco is not installed.
    """
    if truths is None:
        return None
    if max_detections <= 10:
        raise ValueError(
            f"max_detections must be more than 10, whose recall is one of the scores, got {max_detections}"
        )
    pairs = in_order(truths, found, len(class_names))
    result = _evaluated(pairs, len(class_names), max_detections, of)
    precision, recall = result["precision"], result["recall"]  # [overlap, recall, class, area, cut], the latter without
    values: dict[str, float | None] = {
        "AP": _mean(precision[..., 0, -1]),
        "AP50": _mean(precision[0, ..., 0, -1]),
        "AP75": _mean(precision[5, ..., 0, -1]),
        **{f"AP{name}": _mean(precision[..., k, -1]) for k, name in enumerate(_RANGES) if name},
        **{f"AR{cut}": _mean(recall[..., 0, k]) for k, cut in enumerate((1, 10, max_detections))},
        **{f"AR{name}": _mean(recall[..., k, -1]) for k, name in enumerate(_RANGES) if name},
    }
    if of == "masks":
        values = {f"mask_{name}": value for name, value in values.items()}
    of_classes = precision[..., 0, -1]  # [overlap, recall, class]
    counts = np.zeros(len(class_names), np.int64)
    for truth, _ in pairs:
        np.add.at(counts, truth.labels[~truth.crowd], 1)
    return CocoScores(
        values,
        tuple(_mean(of_classes[..., k]) for k in range(len(class_names))),
        tuple(_mean(of_classes[0, :, k]) for k in range(len(class_names))),
        np.maximum(of_classes[0].T, 0),
        counts,
        len(pairs),
        max_detections,
    )


def _mean(numbers: np.ndarray) -> float | None:
    """Return the mean of the numbers that exist; the library has -1 for those of a class or size without objects."""
    known = numbers[numbers > -1]
    return float(known.mean()) if known.size else None


def _evaluated(pairs: Sequence[tuple[Truth, Found]], classes: int, max_detections: int, of: Of) -> dict[str, Any]:
    """Return the library's arrays of precision and recall."""
    require_library()
    from hotcoco import COCO, COCOeval

    # Photographs and classes are numbered anew, from 1, and so are annotations: in the library 0 means "no match".
    images = [dict(id=i, height=truth.height, width=truth.width) for i, (truth, _) in enumerate(pairs, 1)]
    categories = [dict(id=k, name=f"class {k}") for k in range(1, classes + 1)]
    annotations: list[dict[str, Any]] = []
    results: list[dict[str, Any]] = []
    for i, (truth, found) in enumerate(pairs, 1):
        annotated = _rows(i, truth.boxes, truth.labels, iscrowd=truth.crowd, area=truth.area)
        areas = corner_and_sides(found.boxes)[:, 2:].prod(1)
        detected = _rows(i, found.boxes, found.labels, score=found.scores, area=areas)
        if of == "masks":
            _give_masks(annotated, truth.masks())
            _give_masks(detected, _masks_of(found, truth))
            for row, mask in zip(detected, found.masks or (), strict=True):
                row["area"] = mask.area
        annotations += annotated
        results += detected
    for some in (annotations, results):
        for number, row in enumerate(some, 1):
            row["id"] = number
    sets = COCO(), COCO()
    for one, some in zip(sets, (annotations, results), strict=True):
        one.dataset = dict(images=images, categories=categories, annotations=some)
        one.createIndex()
    scorer: Any = COCOeval(*sets, iouType="segm" if of == "masks" else "bbox")
    scorer.params.maxDets = [1, 10, max_detections]
    scorer.evaluate()
    scorer.accumulate()
    return scorer.eval


def _give_masks(rows: Sequence[dict[str, Any]], masks: Sequence[RunLengths]) -> None:
    for row, mask in zip(rows, masks, strict=True):
        row["segmentation"] = mask.values()


def _masks_of(found: Found, truth: Truth) -> tuple[RunLengths, ...]:
    """Return the masks of what was found in a photograph; raise ValueError if there are none, or of another size."""
    if found.masks is None and len(found):
        raise ValueError(f"detections of image {truth.image_id} have no masks")
    size = truth.height, truth.width
    for mask in found.masks or ():
        if mask.size != size:
            raise ValueError(f"detections of image {truth.image_id}: a mask of {mask.size}, the photograph has {size}")
    return found.masks or ()


def _rows(image: int, boxes: np.ndarray, labels: np.ndarray, **fields: np.ndarray) -> list[dict[str, Any]]:
    """Return what COCO's format has of each of some boxes; classes are numbered from 1."""
    columns = zip(*(values.tolist() for values in fields.values()), strict=True)
    return [
        dict(image_id=image, category_id=label + 1, bbox=box, **dict(zip(fields, values, strict=True)))
        for box, label, values in zip(corner_and_sides(boxes).tolist(), labels.tolist(), columns, strict=True)
    ]
