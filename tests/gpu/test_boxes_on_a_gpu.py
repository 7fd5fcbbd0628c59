"""Tests of operators of detection on a CUDA device: equal numbers in their order, IoUs equal to thresholds."""

import functools

import jax
import numpy as np
import pytest
from ops import box_oracle

from aa_flax import ops

pytestmark = pytest.mark.gpu


def test_candidates_of_equal_logits(rng):
    logits = rng.integers(0, 20, (3000, 12)).astype(np.float32)
    found = jax.jit(ops.top_candidates, static_argnames="k")(logits, 2000)
    order = np.argsort(-logits.ravel(), kind="stable")[:2000]
    np.testing.assert_array_equal(found.logits, logits.ravel()[order])
    np.testing.assert_array_equal(np.asarray(found.anchors) * 12 + found.classes, order)


@pytest.mark.parametrize("threshold", [0.5, 0.3, 1 / 3])
def test_suppression(rng, threshold):
    boxes = np.stack([box_oracle.random_boxes(rng, 300, side=40) for _ in range(20)])
    scores = (rng.integers(-3, 4, (20, 300)) / 4).astype(np.float32)
    function = functools.partial(ops.nms, iou_threshold=threshold, max_outputs=200)
    index, valid = (np.asarray(array) for array in jax.jit(jax.vmap(function))(boxes, scores))
    for number in range(20):
        expected = box_oracle.suppressed(box_oracle.pairs(boxes[number]), scores[number], threshold, 200)
        assert index[number][valid[number]].tolist() == expected


@pytest.mark.parametrize("forced", ["best_anchor", "low_quality", None])
def test_matching(rng, forced):
    anchors, valid = box_oracle.random_boxes(rng, 45), rng.random((20, 7)) < 0.7
    boxes = np.stack([box_oracle.random_boxes(rng, 7) for _ in range(20)])
    options = dict(foreground=0.5, background=0.4, forced=forced)
    found = jax.jit(jax.vmap(lambda b, v: ops.match_anchors(anchors, b, v, **options)))(boxes, valid)
    for one, there, matched in zip(boxes, valid, found, strict=True):
        iou = box_oracle.overlaps(one, anchors)
        np.testing.assert_array_equal(matched, box_oracle.matched(iou, there, 0.5, 0.4, forced))
