"""Tests of label maps from logits."""

import numpy as np
import pytest

from aa_flax.evaluation import resized_logits
from aa_flax.evaluation.resized_logits import Plane, label_map


def plane(rng, classes=5, size=(13, 17), places=(4, 3)):
    rows, columns = (
        rng.uniform(0, 1, (side, count)).astype(np.float32) for side, count in zip(size, places, strict=True)
    )
    return Plane(rng.normal(0, 1, (*places, classes)).astype(np.float32), rows, columns)


@pytest.mark.parametrize("planes", [1, 3])
def test_strips_are_like_the_whole(rng, planes, monkeypatch):
    some = [plane(rng) for _ in range(planes)]
    scores = 0
    for each in some:
        logits = np.einsum("hp,pqc,wq->hwc", each.rows, each.logits, each.columns, dtype=np.float64)
        scores += np.exp(logits) / np.exp(logits).sum(-1, keepdims=True) if planes > 1 else logits
    np.testing.assert_array_equal(label_map(some), scores.argmax(-1))
    monkeypatch.setattr(resized_logits, "_STRIP", 17 * 5 * 3)
    np.testing.assert_array_equal(label_map(some), scores.argmax(-1))


def test_of_equal_classes_the_first():
    logits = np.zeros((2, 2, 4), np.float32)
    logits[0, :, 2:], logits[1, 1, 3] = 1.0, -1.0
    assert label_map([Plane(logits, np.eye(2, dtype=np.float32), np.eye(2, dtype=np.float32))]).tolist() == [
        [2, 2],
        [0, 0],
    ]


def test_more_classes_than_bytes(rng):
    with pytest.raises(ValueError, match="256 classes, expected at most 255"):
        label_map([plane(rng, classes=256)])
