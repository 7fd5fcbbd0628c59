"""What a detector did right and what it did wrong, detection by detection and object by object.

The kinds and their order are those of Bolya et al., TIDE: A General Toolbox for Identifying Object Detection Errors
(ECCV 2020), section 2.2, which refine Hoiem et al., Diagnosing Error in Object Detectors (ECCV 2012).
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from aa_flax.data.annotated import Truth
from aa_flax.evaluation.detections import Found, in_order
from aa_flax.evaluation.matching import match_image, overlaps

KINDS: Mapping[str, str] = {
    "correct": "right class, right place",
    "localisation": "right class, box too far off",
    "confusion": "right place, wrong class",
    "both": "wrong class, box too far off",
    "duplicate": "an object found before",
    "background": "no object there",
    "missed": "an object not found",
}
"""Every kind, and what it is. All but the last are of detections, the last of objects."""


class Verdict(NamedTuple):
    """What is to be said of a detection, or of an object that none found.

    Attributes:
        kind: one of `KINDS`.
        image_id: of the photograph.
        box: x1, y1, x2, y2 of the detection or the missed object, in the photograph's pixels.
        label: its class.
        score: of the detection; None for a missed object.
        truth_box: of the object that the detection is judged by; None where there is none, as in background.
        truth_label: the class of that object.
        overlap: intersection over union of both; 0 where there is no such object.
    """

    kind: str
    image_id: int
    box: Float[np.ndarray, "4"]
    label: int
    score: float | None
    truth_box: Float[np.ndarray, "4"] | None
    truth_label: int | None
    overlap: float


def judge(
    truths: Sequence[Truth],
    found: Mapping[int, Found],
    classes: int,
    threshold: float,
    *,
    overlap: float = 0.5,
    touching: float = 0.1,
    max_detections: int = 100,
) -> list[Verdict]:
    """Return a verdict on each detection above a score, and on each object that was missed, photograph by photograph.

    A detection that takes a truth of its class, by the rule of `match`, is correct; one of a crowd has no verdict. Of
    the others the first that applies holds, `o` being the greatest overlap with an object, crowds apart:
    localisation, where touching <= o < overlap with its own class; confusion, where o >= overlap with another class;
    duplicate, where o >= overlap with its own class, because a surer detection has taken that object; background, where
    o < touching with all; both, which is left. An object is missed if no detection takes it and none is judged by it as
    localisation or confusion.

    Args:
        truths: of every photograph.
        found: by `Truth.image_id`.
        classes: how many there are.
        threshold: detections count whose score exceeds it.
        overlap: the intersection over union from which a box is right.
        touching: the intersection over union from which a box is of an object at all.
        max_detections: how many of each class count in a photograph.

    Raises:
        ValueError: as `in_order`; or `touching` and `overlap` are not rising between 0 and 1.
    """
    if not 0 < touching < overlap <= 1:
        raise ValueError(f"0 < touching < overlap <= 1 is asked for, got touching={touching} and overlap={overlap}")
    verdicts = []
    for truth, everything in in_order(truths, found, classes):
        here = everything.some(np.flatnonzero(everything.scores > threshold))
        verdicts += _of_image(truth, here, overlap, touching, max_detections)
    return verdicts


def count_kinds(verdicts: Sequence[Verdict], classes: int) -> dict[str, Int[np.ndarray, " classes"]]:
    """Return how many verdicts of each kind there are of each class, the detection's or the missed object's."""
    counts = {kind: np.zeros(classes, np.int64) for kind in KINDS}
    for verdict in verdicts:
        counts[verdict.kind][verdict.label] += 1
    return counts


def _of_image(truth: Truth, found: Found, overlap: float, touching: float, max_detections: int) -> list[Verdict]:
    kept, (taken,) = match_image(truth, found, np.array([overlap]), max_detections)
    order = np.argsort(-found.scores[kept], kind="stable")
    kept, taken = kept[order], taken[order]
    ious = np.where(truth.crowd, 0, overlaps(found.boxes[kept], truth.boxes))
    own_class = found.labels[kept][:, None] == truth.labels
    verdicts: list[Verdict] = []
    accounted = truth.crowd.copy()
    accounted[taken[taken >= 0]] = True

    def say(kind: str, k: int, j: int | None) -> None:
        at = kept[k]
        box, label, score = found.boxes[at], int(found.labels[at]), float(found.scores[at])
        of = (None, None, 0.0) if j is None else (truth.boxes[j], int(truth.labels[j]), float(ious[k, j]))
        verdicts.append(Verdict(kind, truth.image_id, box, label, score, *of))

    for k, j in enumerate(taken):
        if j >= 0:
            if not truth.crowd[j]:
                say("correct", k, int(j))
            continue
        same, other = _greatest(np.where(own_class[k], ious[k], 0)), _greatest(np.where(own_class[k], 0, ious[k]))
        if touching <= same[0] < overlap:
            say("localisation", k, same[1])
            accounted[same[1]] = True
        elif other[0] >= overlap:
            say("confusion", k, other[1])
            accounted[other[1]] = True
        elif same[0] >= overlap:
            say("duplicate", k, same[1])
        elif max(same[0], other[0]) < touching:
            say("background", k, None)
        else:
            say("both", k, other[1])
    for j in np.flatnonzero(~accounted):
        verdicts.append(Verdict("missed", truth.image_id, truth.boxes[j], int(truth.labels[j]), None, None, None, 0.0))
    return verdicts


def _greatest(ious: np.ndarray) -> tuple[float, int]:
    """Return the greatest overlap and whose it is; 0 and -1 where there are no objects."""
    return (float(ious.max()), int(ious.argmax())) if ious.size else (0.0, -1)
