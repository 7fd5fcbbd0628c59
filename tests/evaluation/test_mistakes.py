"""Tests of F1 by score, kinds of mistakes and the paired bootstrap."""

import coco_by_hand
import numpy as np
import pytest
from coco_by_hand import found, truth

from aa_flax.evaluation.matching import average_precision, match_all
from aa_flax.evaluation.mistakes import KINDS, count_kinds, judge
from aa_flax.evaluation.paired import paired_bootstrap
from aa_flax.evaluation.score_threshold import f1_by_threshold

BOX = (10, 10, 50, 50)
APART = (100, 100, 140, 140)


def shifted(box, by):
    return (box[0] + by, box[1], box[2] + by, box[3])


@pytest.mark.parametrize("name", ["micro", "by class"])
@pytest.mark.few(3)
@pytest.mark.parametrize("seed", range(20))
def test_f1_is_that_of_detections_above_the_threshold(name, seed):
    """By hand: leave the others out, match what stays, and count."""
    truths, all_found = coco_by_hand.random_set(np.random.default_rng(seed))
    curves = f1_by_threshold(match_all(truths, all_found, 3))
    which = [(curves.all, range(3))] if name == "micro" else [(curve, [k]) for k, curve in enumerate(curves.by_class)]
    for curve, labels in which:
        assert (np.diff(curve.thresholds) < 0).all()
        points = []
        for threshold in [*curve.thresholds, *([] if curve.best is None else [curve.best])]:
            right = shown = objects = 0
            for one in truths:
                here = all_found.get(one.image_id, found())
                above = here.scores > threshold
                here = found(here.boxes[above], here.scores[above], here.labels[above])
                for label in labels:
                    counted, number = coco_by_hand.scored_image(one, here, label, 0.5, (0, 1e10), 100)
                    right, shown = right + sum(is_right for _, is_right in counted), shown + len(counted)
                    objects += number
            points.append((right / shown, right / objects, 2 * right / (shown + objects)))
        assert (curve.best is None) == (curve.best_f1 == 0)
        if curve.best is not None:
            *points, best = points
            assert best[2] == pytest.approx(curve.best_f1) == max(f1 for *_, f1 in points)
        np.testing.assert_allclose(np.stack([curve.precision, curve.recall, curve.f1], 1), points, atol=1e-12)


def test_the_threshold_to_use_lies_between_two_scores_and_is_short():
    truths = [truth(1, [BOX, APART])]
    here = found([BOX, APART, (200, 0, 230, 30)], [0.8123, 0.4377, 0.2512])
    curve = f1_by_threshold(match_all(truths, {1: here}, 1)).all
    assert curve.best == 0.34 and curve.best_f1 == 1
    # Nothing lies below the last one but 0.
    assert f1_by_threshold(match_all(truths, {1: found([BOX], [0.003])}, 1)).all.best == pytest.approx(0.0015, abs=6e-4)
    close = found([BOX, APART, (200, 0, 230, 30)], [0.5, 0.250001, 0.25])
    assert 0.25 < f1_by_threshold(match_all(truths, {1: close}, 1)).all.best < 0.250001


def test_f1_where_nothing_is_right_or_nothing_is_there():
    truths = [truth(1, [BOX], [1])]
    curves = f1_by_threshold(match_all(truths, {1: found([APART], [0.5], [0])}, 3))
    assert curves.all.best is None and curves.all.best_f1 == 0
    assert curves.by_class[0].recall.tolist() == [0] and curves.by_class[0].best is None
    assert len(curves.by_class[1].f1) == len(curves.by_class[2].f1) == 0
    with pytest.raises(ValueError, match="overlap=0.3: the matches are of 0.5, 0.75"):
        f1_by_threshold(match_all(truths, {}, 3, np.array([0.5, 0.75])), 0.3)


@pytest.mark.parametrize(
    ("kind", "boxes", "labels", "truth_label", "overlap"),
    [
        ("correct", [shifted(BOX, 8)], [0], 0, 32 / 48),
        ("localisation", [shifted(BOX, 20)], [0], 0, 1 / 3),
        ("confusion", [shifted(BOX, 8)], [1], 0, 32 / 48),
        ("both", [shifted(BOX, 20)], [1], 0, 1 / 3),
        ("background", [shifted(BOX, 36)], [0], None, 0),
        ("background", [shifted(BOX, 36)], [1], None, 0),
        ("background", [(200, 0, 220, 20)], [0], None, 0),
        ("duplicate", [BOX, shifted(BOX, 4)], [0, 0], 0, 36 / 44),
    ],
)
def test_each_kind_of_a_detection(kind, boxes, labels, truth_label, overlap):
    verdicts = judge([truth(5, [BOX], [0])], {5: found(boxes, [0.9, 0.8][: len(boxes)], labels)}, 2, 0.3)
    last = [verdict for verdict in verdicts if verdict.kind != "missed"][-1]
    assert (last.kind, last.image_id, last.label) == (kind, 5, labels[-1]) and tuple(last.box) == boxes[-1]
    assert last.score == [0.9, 0.8][len(boxes) - 1] and last.truth_label == truth_label
    assert last.overlap == pytest.approx(overlap) and (last.truth_box is None) == (truth_label is None)
    assert ("missed" in [v.kind for v in verdicts]) == (kind in ("background", "both"))
    assert kind in KINDS


@pytest.mark.parametrize(
    ("kind", "boxes", "labels"),
    [
        ("localisation", [shifted(BOX, 20)], [0]),  # by 1/3 its own class, by 2/3 another one
        ("confusion", [BOX, shifted(BOX, 4)], [0, 0]),  # of two objects, its own class's is taken
    ],
)
def test_the_first_kind_that_applies_holds(kind, boxes, labels):
    others = {"localisation": shifted(BOX, 28), "confusion": shifted(BOX, 4)}
    verdicts = judge(
        [truth(1, [BOX, others[kind]], [0, 1])], {1: found(boxes, [0.9, 0.8][: len(boxes)], labels)}, 2, 0.1
    )
    assert [verdict.kind for verdict in verdicts if verdict.kind not in ("correct", "missed")] == [kind]


def test_an_object_is_missed_if_nothing_is_of_it():
    truths = [truth(2, [BOX, APART], [0, 1]), truth(3, [BOX]), truth(4)]
    all_found = {2: found([BOX], [0.9]), 3: found([BOX], [0.2]), 4: found([APART], [0.9], [1])}
    verdicts = judge(truths, all_found, 2, 0.2)  # a score must exceed the threshold
    assert [(v.kind, v.image_id, v.label, v.score) for v in verdicts] == [
        ("correct", 2, 0, 0.9),
        ("missed", 2, 1, None),
        ("missed", 3, 0, None),
        ("background", 4, 1, 0.9),
    ]
    assert tuple(verdicts[1].box) == APART
    counts = count_kinds(verdicts, 2)
    assert list(counts) == list(KINDS) and sum(count.sum() for count in counts.values()) == 4
    assert counts["missed"].tolist() == [1, 1] and counts["background"].tolist() == [0, 1]


def test_crowds_have_no_verdict():
    truths = [truth(2, [(0, 0, 200, 200), (210, 0, 250, 40)], crowd=[True, False])]
    verdicts = judge(truths, {2: found([(10, 10, 40, 40), (210, 0, 250, 40)], [0.9, 0.8])}, 1, 0.1)
    assert [verdict.kind for verdict in verdicts] == ["correct"]
    # Of another class, it is no part of the crowd, nor judged by it.
    verdicts = judge(truths, {2: found([(10, 10, 40, 40)], [0.9], [1])}, 2, 0.1)
    assert [verdict.kind for verdict in verdicts] == ["background", "missed"]


def test_a_surer_detection_takes_the_object_whatever_the_order():
    boxes, scores = [shifted(BOX, 4), BOX], [0.5, 0.9]
    verdicts = judge([truth(1, [BOX])], {1: found(boxes, scores)}, 1, 0.0)
    assert [(v.kind, v.score) for v in verdicts] == [("correct", 0.9), ("duplicate", 0.5)]


@pytest.mark.few(2)
@pytest.mark.parametrize("seed", range(12))
def test_verdicts_add_up(seed):
    truths, all_found = coco_by_hand.random_set(np.random.default_rng(seed))
    matches = match_all(truths, all_found, 3)
    for threshold in (-1.0, 0.33):
        counts = {kind: count.sum() for kind, count in count_kinds(judge(truths, all_found, 3, threshold), 3).items()}
        above = matches.scores > threshold
        assert counts["correct"] == matches.right[0][above].sum()
        assert sum(counts.values()) - counts["missed"] == (~matches.ignored[0] & above).sum()
        unmatched = matches.truths.sum() - counts["correct"]
        assert unmatched - counts["localisation"] - counts["confusion"] <= counts["missed"] <= unmatched


def test_bounds_that_do_not_rise_are_refused():
    with pytest.raises(ValueError, match="touching=0.6 and overlap=0.5"):
        judge([truth(1, [BOX])], {}, 1, 0.5, touching=0.6)


def test_ap_of_a_resampled_set_is_that_of_its_copies(rng):
    """Weights count photographs; here the set is written out with copies, and no scores are equal."""
    truths, all_found = coco_by_hand.random_set(rng)
    for one in all_found.values():
        one.scores[:] += rng.random(len(one)) * 0.04
    ordered = sorted(truths, key=lambda one: one.image_id)
    weights = rng.integers(0, 4, len(truths))
    copies, of_copies = [], {}
    for one, times in zip(ordered, weights, strict=True):
        for _ in range(times):
            number = len(copies) + 1
            copies.append(truth(number, one.boxes, one.labels, one.crowd, one.area))
            of_copies[number] = all_found.get(one.image_id, found())
    precisions, present = average_precision(match_all(truths, all_found, 3), weights)
    expected, there = average_precision(match_all(copies, of_copies, 3))
    np.testing.assert_array_equal(present, there)
    np.testing.assert_allclose(precisions, expected, atol=1e-12)


def test_paired_bootstrap():
    rng = np.random.default_rng(3)
    truths, good = coco_by_hand.random_set(rng, images=40)
    # The worse one finds the same, but half of its boxes are off by a third.
    worse = {
        number: found(one.boxes + 12 * (rng.random((len(one), 1)) < 0.5), one.scores, one.labels)
        for number, one in good.items()
    }
    first, second = (match_all(truths, some, 3, np.array([0.5, 0.75])) for some in (good, worse))
    apart = paired_bootstrap(first, second, samples=60, seed=7)
    assert apart.difference == pytest.approx(apart.first - apart.second) and apart.first > apart.second
    assert apart.low < apart.difference < apart.high and apart.differ and len(apart.differences) == 60
    again, other = (paired_bootstrap(first, second, samples=60, seed=seed) for seed in (7, 8))
    np.testing.assert_array_equal(again.differences, apart.differences)
    assert not np.array_equal(other.differences, apart.differences)
    back = paired_bootstrap(second, first, samples=60, seed=7)
    np.testing.assert_array_equal(back.differences, -apart.differences)
    wide = paired_bootstrap(first, second, samples=60, seed=7, level=0.99)
    assert wide.low <= apart.low and wide.high >= apart.high
    same = paired_bootstrap(first, first, samples=5)
    assert same.difference == same.low == same.high == 0 and not same.differ


def test_the_interval_has_the_width_that_theory_gives():
    """Photographs with one object, found or not, and no wrong detections: AP50 is the 101-point recall, a mean."""
    found_ones = np.random.default_rng(0).random(200) < 0.6
    truths = [truth(k, [BOX]) for k in range(200)]
    all_found = {k: found([BOX], [0.5]) for k in range(200) if found_ones[k]}
    nothing = match_all(truths, {0: found([APART], [0.1])}, 1, np.array([0.5]))
    result = paired_bootstrap(match_all(truths, all_found, 1, np.array([0.5])), nothing, samples=400, seed=1)
    p = found_ones.mean()
    spread = (p * (1 - p) / 200) ** 0.5
    assert (result.high - result.low) / (2 * 1.96 * spread) == pytest.approx(1, abs=0.15)  # 400 samples


def test_a_bootstrap_of_what_cannot_be_paired_is_refused():
    first = match_all([truth(1, [BOX]), truth(2)], {}, 1)
    for second in (
        match_all([truth(1), truth(2, [BOX])], {}, 1),
        match_all([truth(1, [BOX]), truth(2)], {}, 1, np.ones(1)),
    ):
        with pytest.raises(ValueError, match="of different truths or thresholds"):
            paired_bootstrap(first, second)
    for wrong in (dict(samples=0), dict(level=1.0)):
        with pytest.raises(ValueError, match="samples must be at least 1 and level between 0 and 1"):
            paired_bootstrap(first, first, **wrong)
