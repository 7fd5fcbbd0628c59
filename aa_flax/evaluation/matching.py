"""Which detections are of which truths, by COCO's rule, and the average precision that follows.

`aa_flax.evaluation.coco` takes the twelve numbers from the library that everyone takes them from. What it does not give
needs the matches themselves: F1 by threshold, kinds of mistakes, and intervals by resampling photographs.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Float64, Int

from aa_flax.data.annotated import Truth
from aa_flax.evaluation.detections import Found, corner_and_sides, in_order

IOU_THRESHOLDS = np.linspace(0.5, 0.95, 10)
"""The ten overlaps that COCO's AP is the mean over."""
RECALLS = np.linspace(0, 1, 101)
"""The recalls at which precision is read."""


def overlaps(
    boxes: Float64[np.ndarray, "k 4"], others: Float64[np.ndarray, "n 4"], crowd: Bool[np.ndarray, " n"] | None = None
) -> Float[np.ndarray, "k n"]:
    """Return the intersection over union of each box with each other one, or, with a crowd, over the box's own area."""
    own, other = corner_and_sides(boxes)[:, None], corner_and_sides(others)
    ends = np.minimum(own[..., :2] + own[..., 2:], other[:, :2] + other[:, 2:])
    shared_sides = ends - np.maximum(own[..., :2], other[:, :2])
    shared = np.where((shared_sides > 0).all(-1), shared_sides.prod(-1), 0)
    area, other_area = own[..., 2:].prod(-1), other[:, 2:].prod(-1)
    whole = area + other_area - shared
    if crowd is not None:
        whole = np.where(crowd, area, whole)
    return shared / np.where(shared > 0, whole, 1)


def match(
    ious: Float[np.ndarray, "k n"], crowd: Bool[np.ndarray, " n"], thresholds: Float[np.ndarray, " t"]
) -> Int[np.ndarray, "t k"]:
    """Return the truth that each detection takes at each threshold, or -1.

    In falling score, which is the order of the rows, each detection takes the truth that it overlaps most among those
    still free, if by at least the threshold; of equal overlaps the last. If there is none, it may belong to a crowd.

    Args:
        ious: from `overlaps`, of detections and truths of one class.
        crowd: which truths are crowds; these stay free.
        thresholds: the overlaps asked for.
    """
    taken = np.full((len(thresholds), len(ious)), -1)
    free = np.broadcast_to(~crowd, (len(thresholds), len(crowd))).copy()
    rows = np.arange(len(thresholds))
    for k in np.flatnonzero((ious >= thresholds.min()).any(1)):
        for candidates in (free, np.broadcast_to(crowd, free.shape)):
            reached = np.where(candidates & (ious[k] >= thresholds[:, None]), ious[k], -1)
            best = reached.shape[1] - 1 - reached[:, ::-1].argmax(1)
            new = (taken[:, k] < 0) & (reached[rows, best] >= 0)
            taken[new, k] = best[new]
        own = taken[:, k] >= 0
        free[rows[own], taken[own, k]] = False
    return taken


def match_image(
    truth: Truth, found: Found, thresholds: Float[np.ndarray, " t"], max_detections: int = 100
) -> tuple[Int[np.ndarray, " m"], Int[np.ndarray, "t m"]]:
    """Return the detections of one photograph that count, and the truth that each takes at each threshold, or -1.

    Those that count are the surest `max_detections` of each class; they are ordered by class, then by falling score.
    """
    order = np.lexsort((-found.scores, found.labels))  # stable: equal scores of a class stay in their order
    labels = found.labels[order]
    rank = np.arange(len(order)) - np.searchsorted(labels, labels)
    kept, labels = order[rank < max_detections], labels[rank < max_detections]
    taken = np.full((len(thresholds), len(kept)), -1)
    for label in np.unique(truth.labels):
        own = slice(*np.searchsorted(labels, [label, label + 1]))
        those = np.flatnonzero(truth.labels == label)
        ious = overlaps(found.boxes[kept[own]], truth.boxes[those], truth.crowd[those])
        taken[:, own] = np.append(those, -1)[match(ious, truth.crowd[those], thresholds)]
    return kept, taken


@dataclass(frozen=True)
class Matches:
    """All detections of a set, ordered by class and falling score, and whether each is right.

    Attributes:
        image: the photograph of each detection, numbered from 0 by rising `Truth.image_id`.
        labels: the class of each.
        scores: of each.
        right: whether it takes a truth, at each threshold.
        ignored: whether it belongs to a crowd, at each threshold, and counts neither way.
        truths: how many objects of each class a photograph has, crowds apart.
        thresholds: the overlaps asked for.
    """

    image: Int[np.ndarray, " m"]
    labels: Int[np.ndarray, " m"]
    scores: Float[np.ndarray, " m"]
    right: Bool[np.ndarray, "t m"]
    ignored: Bool[np.ndarray, "t m"]
    truths: Int[np.ndarray, "images classes"]
    thresholds: Float[np.ndarray, " t"]

    def of_class(self, label: int) -> slice:
        """Return where the detections of a class lie."""
        return slice(*np.searchsorted(self.labels, [label, label + 1]))


def match_all(
    truths: Sequence[Truth],
    found: Mapping[int, Found],
    classes: int,
    thresholds: Float[np.ndarray, " t"] = IOU_THRESHOLDS,
    max_detections: int = 100,
) -> Matches:
    """Return the matches of a whole set.

    Args:
        truths: of every photograph.
        found: by `Truth.image_id`.
        classes: how many there are.
        thresholds: the overlaps asked for.
        max_detections: how many of each class count in a photograph.

    Raises:
        ValueError: as `in_order`.
    """
    image, labels, scores, right, ignored, counts = [], [], [], [], [], []
    for number, (truth, here) in enumerate(in_order(truths, found, classes)):
        kept, taken = match_image(truth, here, thresholds, max_detections)
        of_crowd = np.append(truth.crowd, False)[taken]  # -1 reads the last
        image.append(np.full(len(kept), number))
        labels.append(here.labels[kept])
        scores.append(here.scores[kept])
        right.append((taken >= 0) & ~of_crowd)
        ignored.append(of_crowd)
        counts.append(np.bincount(truth.labels[~truth.crowd], minlength=classes))
    all_labels, all_scores = np.concatenate(labels), np.concatenate(scores)
    order = np.lexsort((-all_scores, all_labels))  # stable: equal scores stay in the order of photographs
    return Matches(
        np.concatenate(image)[order],
        all_labels[order],
        all_scores[order],
        np.concatenate(right, 1)[:, order],
        np.concatenate(ignored, 1)[:, order],
        np.stack(counts),
        thresholds,
    )


def average_precision(
    matches: Matches, weights: Int[np.ndarray, " images"] | None = None
) -> tuple[Float[np.ndarray, "t classes"], Bool[np.ndarray, " classes"]]:
    """Return the average precision of each threshold and class, and which classes have truths; the others have 0.

    It is the mean over `RECALLS` of the greatest precision at that recall or a higher one, 0 if none is reached.

    Args:
        matches: of the set.
        weights: how often each photograph is in the set, once if not given. A photograph that is there twice counts as
            two would, except among detections of equal score.
    """
    images, classes = matches.truths.shape
    weights = np.ones(images, np.int64) if weights is None else weights
    totals = weights @ matches.truths
    precisions = np.zeros((len(matches.thresholds), classes))
    for label in np.flatnonzero(totals).tolist():
        own = matches.of_class(label)
        times = weights[matches.image[own]]
        right = np.cumsum(matches.right[:, own] * times, 1)
        counted = np.cumsum(~matches.ignored[:, own] * times, 1)
        precision = right / np.maximum(counted, 1)
        best_from_here = np.maximum.accumulate(precision[:, ::-1], 1)[:, ::-1]
        for row, (reached, best) in enumerate(zip(right / totals[label], best_from_here, strict=True)):
            precisions[row, label] = np.append(best, 0)[np.searchsorted(reached, RECALLS)].mean()
    return precisions, totals > 0
