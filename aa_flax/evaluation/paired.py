"""Whether one detector is better than another on the same photographs, or the photographs were kind to it."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64

from aa_flax.evaluation.matching import Matches, average_precision


@dataclass(frozen=True)
class PairedDifference:
    """The AP of two detectors on the same photographs, and how far their difference is due to the choice of these.

    Attributes:
        first, second: AP of each, from 0 to 1.
        difference: first minus second.
        low, high: the interval that the difference of resampled sets lies in, as often as `level` says.
        level: 0.95 for an interval of 95 %.
        differences: of every resampled set.
    """

    first: float
    second: float
    difference: float
    low: float
    high: float
    level: float
    differences: Float64[np.ndarray, " samples"]

    @property
    def differ(self) -> bool:
        """Return whether the interval leaves out 0."""
        return not self.low <= 0 <= self.high


def paired_bootstrap(
    first: Matches | Sequence[Matches],
    second: Matches | Sequence[Matches],
    *,
    samples: int = 1000,
    seed: int = 0,
    level: float = 0.95,
) -> PairedDifference:
    """Return the difference of two detectors' AP with its interval by resampling photographs.

    Each sample draws as many photographs as there are, with replacement, the same for both detectors, and computes both
    AP of the resampled set: the mean over the thresholds of the matches and the classes with objects in the sample. The
    interval is that between quantiles (Efron and Tibshirani, An Introduction to the Bootstrap, 1993, section 13.3).
    With several networks of each detector, of other seeds, it is of the mean of their AP; that yet other seeds train
    other networks is not in it.

    Args:
        first, second: from `match_all`, of the same truths and thresholds; or several of each.
        samples: how many sets to draw.
        seed: of the draws.
        level: of the interval, between 0 and 1.

    Raises:
        ValueError: the matches are of other truths or thresholds, or `samples` or `level` is out of range.
    """
    ours, others = ([each] if isinstance(each, Matches) else [*each] for each in (first, second))
    if not ours or not others:
        raise ValueError("first, second: each must have the matches of a network")
    one, *more = (*ours, *others)
    if not all(
        np.array_equal(one.truths, each.truths) and np.array_equal(one.thresholds, each.thresholds) for each in more
    ):
        raise ValueError("first, second: the matches are of different truths or thresholds; both must be of the same")
    if samples < 1 or not 0 < level < 1:
        raise ValueError(f"samples must be at least 1 and level between 0 and 1, got {samples} and {level}")
    images = len(one.truths)
    draws = np.random.default_rng(seed)
    differences = np.empty(samples)
    for sample in range(samples):
        weights = np.bincount(draws.integers(0, images, images), minlength=images)
        while not (weights @ one.truths).any():  # a sample without objects has no AP
            weights = np.bincount(draws.integers(0, images, images), minlength=images)
        differences[sample] = _mean_ap(ours, weights) - _mean_ap(others, weights)
    low, high = np.quantile(differences, [(1 - level) / 2, (1 + level) / 2])
    ap, other = _mean_ap(ours), _mean_ap(others)
    return PairedDifference(ap, other, ap - other, float(low), float(high), level, differences)


def _mean_ap(networks: Sequence[Matches], weights: np.ndarray | None = None) -> float:
    found = (average_precision(matches, weights) for matches in networks)
    return float(np.mean([precisions[:, present].mean() for precisions, present in found]))
