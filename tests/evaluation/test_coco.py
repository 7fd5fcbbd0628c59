"""Tests of COCO's twelve numbers: known answers, and a slow evaluator of the tests' own."""

import sys

import coco_by_hand
import numpy as np
import pytest
from coco_by_hand import found, truth
from photo_sets import photos, write_coco

from aa_flax.data import load
from aa_flax.data.masks import MissingLibrary
from aa_flax.evaluation.coco import evaluate
from aa_flax.evaluation.matching import average_precision, match_all

NAMES = ("AP", "AP50", "AP75", "AP_small", "AP_medium", "AP_large")
NAMES += ("AR1", "AR10", "AR100", "AR_small", "AR_medium", "AR_large")
OF_THE_FIXTURE = (
    "0.5045806987 0.6969727247 0.5729816670 0.5856257209 0.5193996948 0.5013978986 "
    "0.3868127796 0.5936795763 0.5953529829 0.6398109626 0.5664205979 0.5642905983"
)
"""What pycocotools gives, to ten digits."""
BOX, BESIDE = (10, 10, 50, 40), (100, 100, 150, 140)
FAR = (200, 150, 240, 190)


@pytest.fixture(scope="module")
def coco():
    return coco_by_hand.fixture()


def test_the_twelve_numbers_of_cocos_fixture(coco):
    truths, all_found, names, _ = coco
    scores = evaluate(truths, all_found, names)
    assert tuple(scores.values) == NAMES
    np.testing.assert_allclose([*scores.values.values()], np.array(OF_THE_FIXTURE.split(), float), rtol=0, atol=1e-9)
    assert scores.photographs == 100 and scores.max_detections == 100 and scores.truths.sum() == 839 - 9


def test_neither_order_of_photographs_nor_of_detections_counts(coco, rng):
    truths, all_found, names, _ = coco
    scores = evaluate(truths, all_found, names)
    shuffled = {}
    for number in rng.permutation(list(all_found)).tolist():
        one = all_found[number]
        order = rng.permutation(len(one))
        if len(set(one.scores)) < len(one):  # equal scores of a class keep their order: it decides, in COCO too
            order = np.argsort(-one.scores, kind="stable")
        shuffled[number] = type(one)(one.boxes[order], one.scores[order], one.labels[order])
    again = evaluate([truths[k] for k in rng.permutation(len(truths))], shuffled, names)
    assert again.values == scores.values and again.by_class == scores.by_class


def test_the_truths_of_a_data_set_are_scored_as_they_are(tmp_path):
    dataset = load("coco_json/it", data_dir=tmp_path / "tfds", source_dir=write_coco(tmp_path / "it", photos()))
    truths = dataset.truths("train")
    right = {each.image_id: found(each.boxes, np.ones(len(each.objects)), each.labels) for each in truths}
    assert evaluate(truths, right, dataset.class_names).values["AP"] == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize(
    ("right", "objects", "expected"),
    [("TFT", 2, 0.834983), ("T", 2, 0.504950), ("FT", 1, 0.5), ("TTF", 2, 1.0), ("TFFT", 3, 0.5)],
)
def test_average_precision_by_hand(right, objects, expected):
    """Detections by falling score, right or wrong; each object is in a photograph of its own, and so are wrong ones."""
    truths = [truth(k, [BOX]) for k in range(objects)] + [truth(90)]
    ends = iter(range(objects))
    per_image = {}
    for place, letter in enumerate(right):
        number = next(ends) if letter == "T" else 90
        old = per_image.get(number, [])
        per_image[number] = [*old, 0.9 - 0.1 * place]
    all_found = {number: found([BOX] * len(scores), scores) for number, scores in per_image.items()}
    scores = evaluate(truths, all_found, ["cell"])
    assert scores.values["AP50"] == pytest.approx(expected, abs=1e-6)
    assert scores.values["AP"] == pytest.approx(expected, abs=1e-6)  # boxes are exact, at every overlap
    assert scores.precision_50[0].mean() == pytest.approx(expected, abs=1e-6)
    assert scores.by_class == pytest.approx([expected], abs=1e-6)


@pytest.mark.few(4, thorough=40)
@pytest.mark.parametrize("seed", range(60))
def test_random_sets_against_loops(seed):
    truths, all_found = coco_by_hand.random_set(np.random.default_rng(seed))
    scores = evaluate(truths, all_found, ["a", "b", "c"])
    by_hand = coco_by_hand.scores(truths, all_found, 3)
    assert scores.values == {name: pytest.approx(value, abs=1e-12) for name, value in by_hand.items()}
    for k in range(3):
        own = coco_by_hand.precision_and_recall(truths, all_found, k, 0.5)
        assert scores.by_class_50[k] == (own if own is None else pytest.approx(own[0], abs=1e-12))
    precisions, present = average_precision(match_all(truths, all_found, 3))
    assert precisions[:, present].mean() == pytest.approx(scores.values["AP"], abs=1e-12)
    assert [precisions[0, k] if present[k] else None for k in range(3)] == pytest.approx(scores.by_class_50, abs=1e-12)


def test_detections_of_a_crowd_are_neither_right_nor_wrong():
    truths = [truth(3, [BOX, (100, 0, 300, 200)], crowd=[False, True])]
    # Two lie in the crowd, each much smaller than it; the third is beside both.
    boxes, surest = [BOX, BESIDE, (110, 20, 130, 60)], [0.5, 0.9, 0.8]
    assert evaluate(truths, {3: found(boxes, surest)}, ["a"]).values["AP"] == pytest.approx(1)
    worse = evaluate(truths, {3: found([*boxes, (60, 100, 90, 120)], [*surest, 0.7])}, ["a"])
    assert worse.values["AP"] == pytest.approx(0.5) and worse.truths.tolist() == [1]


@pytest.mark.parametrize(
    ("side", "names"), [(32, ("small", "medium")), (33, ("medium",)), (96, ("medium", "large")), (97, ("large",))]
)
def test_bounds_of_areas_belong_to_both_sides(side, names):
    box = (10, 10, 10 + side, 10 + side)
    values = evaluate([truth(1, [box])], {1: found([box], [0.5])}, ["a"]).values
    assert {name for name in ("small", "medium", "large") if values[f"AP_{name}"] is not None} == set(names)
    assert [values[f"{kind}_{name}"] for kind in ("AP", "AR") for name in names] == pytest.approx([1] * 2 * len(names))


def test_an_objects_area_is_the_annotations():
    """In COCO it is that of the outline, which is smaller than the box."""
    values = evaluate([truth(1, [(0, 0, 60, 60)], area=[900])], {1: found([(0, 0, 60, 60)], [0.5])}, ["a"]).values
    assert values["AP_small"] == pytest.approx(1) and values["AP_medium"] is None


def test_detections_outside_the_range_of_areas_are_not_wrong_there():
    truths = [truth(1, [(0, 0, 20, 20)])]
    values = evaluate(truths, {1: found([(50, 50, 200, 200), (0, 0, 20, 20)], [0.9, 0.5])}, ["a"]).values
    assert values["AP_small"] == pytest.approx(1) and values["AP"] == pytest.approx(0.5)


@pytest.mark.parametrize("most", [100, 120])
def test_only_the_surest_of_a_photograph_and_class_count(most):
    corners = np.array([(x, y) for x in range(0, 300, 20) for y in range(0, 200, 20)][:130], float)
    boxes = np.concatenate([corners, corners + 10], 1)
    surest = np.linspace(1, 0.1, 130)
    truths = [truth(1, np.concatenate([boxes, boxes]), [0] * 130 + [1] * 130)]
    here = found(np.concatenate([boxes, boxes]), [*surest, *surest], [0] * 130 + [1] * 130)
    scores = evaluate(truths, {1: here}, ["a", "b"], max_detections=most)
    assert scores.values[f"AR{most}"] == pytest.approx(most / 130)
    assert scores.values["AR1"] == pytest.approx(1 / 130) and scores.values["AR10"] == pytest.approx(10 / 130)
    assert match_all(truths, {1: here}, 2, max_detections=most).right.sum() == 10 * 2 * most


def test_photographs_without_objects_or_without_detections_count():
    truths = [truth(1, [BOX]), truth(2), truth(3, [BOX])]
    all_found = {1: found([BOX], [0.6]), 2: found([BOX], [0.9])}
    assert evaluate(truths, all_found, ["a"]).values["AP"] == pytest.approx(51 / 101 / 2)
    assert evaluate(truths, {}, ["a"]).values["AP"] == 0
    assert evaluate(truths, {2: found()}, ["a"]).values["AR100"] == 0


def test_a_class_without_objects_has_no_score_and_takes_no_part():
    truths = [truth(1, [BOX], [2])]
    scores = evaluate(truths, {1: found([BOX, BESIDE], [0.5, 0.9], [2, 0])}, ["a", "b", "c"])
    for of_classes in (scores.by_class, scores.by_class_50):
        assert of_classes == (None, None, pytest.approx(1))
    assert scores.values["AP"] == pytest.approx(1) and scores.values["AP_large"] is None
    assert scores.precision_50.shape == (3, 101) and not scores.precision_50[:2].any()


def test_a_set_without_annotations_has_no_scores():
    assert evaluate(None, {1: found([BOX], [0.5])}, ["a"]) is None


@pytest.mark.parametrize(
    ("truths", "all_found", "message"),
    [
        ([], {}, "no photographs"),
        ([truth(1), truth(2)], {1: found([BOX], [0.5])}, "none of the 2 photographs has an annotated object"),
        ([truth(1, [BOX], crowd=[True])], {}, "none of the 1 photographs"),
        ([truth(7, [BOX])], {1: found(), 2: found(), 3: found(), 4: found()}, "of image 1, 2, 3 and 1 more"),
        ([truth(7, [BOX]), truth(7)], {}, "more than one of image 7"),
        ([truth(7, [BOX], [2])], {}, "truths of image 7: class 2; the 2 classes are numbered from 0 to 1"),
        ([truth(7, [BOX])], {7: found([BOX], [0.5], [-1])}, "detections of image 7: class -1"),
    ],
)
def test_sets_that_do_not_fit_are_refused(truths, all_found, message):
    for score in (lambda: evaluate(truths, all_found, ["a", "b"]), lambda: match_all(truths, all_found, 2)):
        with pytest.raises(ValueError, match=message):
            score()


def test_boxes_and_scores_that_are_none_are_refused():
    with pytest.raises(ValueError, match=r"truths of image 1: \[10.0, 10.0, 5.0, 40.0\] is no box"):
        truth(1, [(10, 10, 5, 40)], area=[1])
    with pytest.raises(ValueError, match="nan"):
        found([(10, 10, np.nan, 40)], [0.5])
    with pytest.raises(ValueError, match="a score is NaN"):
        found([BOX], [np.nan])
    with pytest.raises(ValueError, match="max_detections must be more than 10"):
        evaluate([truth(1, [BOX])], {}, ["a"], max_detections=10)


def test_own_matches_are_the_librarys_to_the_last_bit(coco):
    """Two detections of the fixture overlap their truths by 0.6 and 0.8 exactly."""
    truths, all_found, names, _ = coco
    precisions, present = average_precision(match_all(truths, all_found, len(names)))
    scores = evaluate(truths, all_found, names)
    own = [precisions[:, k].mean() if present[k] else None for k in range(len(names))]
    assert own == pytest.approx(scores.by_class, abs=1e-12)


def test_without_the_library_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "hotcoco", None)
    with pytest.raises(MissingLibrary, match=r"pip install 'aa_flax\[detection\]'"):
        evaluate([truth(1, [BOX])], {}, ["a"])
