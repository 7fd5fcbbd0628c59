"""F1 by score, and from which score on detections are worth showing."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float64

from aa_flax.evaluation.matching import Matches


@dataclass(frozen=True)
class Curve:
    """Precision, recall and F1 of the detections whose score exceeds a threshold, as the threshold falls.

    Attributes:
        thresholds: falling, each midway between two scores that follow each other.
        precision: of the detections above each, right ones by all but those of crowds.
        recall: the part of the objects that these find.
        f1: the harmonic mean of both, 2 right / (detections + objects).
        best: a threshold of the greatest F1, in few digits, the highest of equals; None if no detection is right.
    """

    thresholds: Float64[np.ndarray, " m"]
    precision: Float64[np.ndarray, " m"]
    recall: Float64[np.ndarray, " m"]
    f1: Float64[np.ndarray, " m"]
    best: float | None

    @property
    def best_f1(self) -> float:
        """Return the greatest F1; 0 if no detection is right."""
        return float(self.f1.max(initial=0))


@dataclass(frozen=True)
class ScoreThresholds:
    """F1 by score of a detector.

    Attributes:
        all: of all classes together, each detection and object counting the same ("micro").
        by_class: of each class.
    """

    all: Curve
    by_class: tuple[Curve, ...]


def f1_by_threshold(matches: Matches, overlap: float = 0.5) -> ScoreThresholds:
    """Return F1 of a detector by the score from which on its detections count.

    Matches are in falling score, so that what a detection takes depends on no lower one: leaving out those below a
    threshold changes nothing above it.

    Args:
        matches: of the set.
        overlap: the intersection over union from which a detection is right, one of `matches.thresholds`.

    Raises:
        ValueError: the matches are not of this overlap.
    """
    row = threshold_row(matches, overlap)
    counted = ~matches.ignored[row]
    totals = matches.truths.sum(0)
    parts = [slice(None), *(matches.of_class(label) for label in range(len(totals)))]
    curves = [
        _curve(matches.scores[part][counted[part]], matches.right[row][part][counted[part]], int(total))
        for part, total in zip(parts, [totals.sum(), *totals], strict=True)
    ]
    return ScoreThresholds(curves[0], tuple(curves[1:]))


def threshold_row(matches: Matches, overlap: float) -> int:
    """Return the row of an overlap in `matches.thresholds`; raise ValueError if it has none."""
    (rows,) = np.nonzero(np.isclose(matches.thresholds, overlap, rtol=0, atol=1e-9))
    if not len(rows):
        raise ValueError(f"overlap={overlap}: the matches are of {', '.join(f'{t:g}' for t in matches.thresholds)}")
    return int(rows[0])


def _curve(scores: Float64[np.ndarray, " n"], right: Bool[np.ndarray, " n"], truths: int) -> Curve:
    order = np.argsort(-scores, kind="stable")
    scores, found = scores[order], np.cumsum(right[order])
    ends = np.flatnonzero(np.diff(scores, append=-np.inf) < 0)  # the last of each equal scores
    found, shown, scores = found[ends], ends + 1.0, scores[ends]
    f1 = 2 * found / (shown + truths)
    next_lower = np.append(scores[1:], np.where(scores[-1:] > 0, 0, scores[-1:] - 1))
    best = int(f1.argmax()) if found.any() else None
    return Curve(
        (scores + next_lower) / 2,
        found / shown,
        found / max(truths, 1),
        f1,
        None if best is None else _short_number(next_lower[best], scores[best]),
    )


def _short_number(low: float, high: float) -> float:
    """Return the number with the fewest decimals, at least two, near the middle between two others."""
    middle = (low + high) / 2
    between = (round(middle, decimals) for decimals in range(2, 18))
    return float(next((short for short in between if low < short < high), middle))
