"""Tests of which evaluation of a run is its best."""

import numpy as np
import pytest

from aa_flax.runs.held_out import Evaluated, HeldOut


def rows(*scores, split="eval"):
    return [{"step": 4 * k, "split": split, "epoch": k, "accuracy": score} for k, score in enumerate(scores, 1)]


@pytest.mark.parametrize("seed", range(3))
def test_the_best_is_the_first_of_the_highest(seed):
    scores = np.random.default_rng(seed).integers(0, 4, 13) / 4  # many are equal
    shuffled = [rows(*scores)[k] for k in np.random.default_rng(seed + 9).permutation(13)]
    held_out = HeldOut("accuracy", [*shuffled, *rows(2.0, 2.0, split="train")])
    place = int(np.argmax(scores))  # NumPy's is the first
    assert held_out.best() == Evaluated(4 * (place + 1), place + 1, scores[place])
    some = [8, 20, 36, 400]
    among = [k for k in range(13) if 4 * (k + 1) in some]
    assert held_out.best_step(some) == 4 * (max(among, key=lambda k: scores[k]) + 1)
    assert held_out.at(8).score == scores[1] and held_out.at(9) is None


def test_scores_that_are_no_numbers_are_never_the_best():
    held_out = HeldOut("accuracy", [*rows(None, float("nan")), {"step": 12, "split": "eval", "epoch": 3, "loss": 9.0}])
    assert held_out.best() is None and held_out.best_step() is None
    held_out.take(rows(-2.0, float("nan"), -3.0))
    assert held_out.best() == (4, 1, -2.0) and held_out.best_step([8]) is None


def test_an_evaluation_that_is_made_again_stands_for_the_first():
    held_out = HeldOut("accuracy", rows(0.5, 0.75))
    held_out.take(rows(0.5, 0.25))
    assert held_out.best_step() == 4
