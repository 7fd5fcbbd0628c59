"""Tests of detections on their way from padded batches to COCO's scores and file."""

import json

import coco_by_hand
import numpy as np
import pytest

from aa_flax.data.placement import Placement, boxes_on_canvas
from aa_flax.evaluation.coco import evaluate
from aa_flax.evaluation.coco_json import read_results, results_json
from aa_flax.evaluation.detection_rows import DetectionRows, found_in, merged

K = 41
"""Rows of a photograph in a padded batch; the fixture has at most 40 detections of one."""


@pytest.fixture(scope="module")
def coco():
    return coco_by_hand.fixture()


def placement_of(truth, canvas=(256, 320)):
    """Return a placement of the whole photograph in the corner of a canvas."""
    scale = min(canvas[0] / truth.height, canvas[1] / truth.width)
    size = round(truth.height * scale), round(truth.width * scale)
    return Placement(
        (0.0, 0.0, float(truth.width), float(truth.height)), size, canvas, (truth.height, truth.width)
    ).as_array()


def padded(one, placement, rng):
    """Return detections as a network gives them: in pixels of the canvas, float32, in any rows, rubbish between."""
    rows = {
        "boxes": rng.normal(50, 20, (K, 4)).astype(np.float32),
        "scores": np.full(K, 0.99, np.float32),
        "classes": np.zeros(K, np.int32),
        "valid": np.zeros(K, bool),
    }
    places = np.sort(rng.permutation(K)[: len(one)])
    rows["boxes"][places] = boxes_on_canvas(one.boxes, placement)
    rows["scores"][places], rows["classes"][places], rows["valid"][places] = one.scores, one.labels, True
    return rows


def batches(coco, rng, size, of=None):
    """Yield batches of some photographs, in any order, the last filled with copies."""
    truths, all_found, _, _ = coco
    order = rng.permutation(len(truths)) if of is None else np.array(of)
    for start in range(0, len(order), size):
        index = np.resize(order[start : start + size], size)
        places = np.stack([placement_of(truths[i]) for i in index])
        none = coco_by_hand.found()
        rows = [padded(all_found.get(truths[i].image_id, none), p, rng) for i, p in zip(index, places, strict=True)]
        mask = np.arange(size) < len(order) - start
        yield index, mask, {name: np.stack([row[name] for row in rows]) for name in rows[0]}, places


def test_the_twelve_numbers_through_padded_batches(coco, rng):
    truths, all_found, names, _ = coco
    straight = evaluate(truths, all_found, names)
    rows = DetectionRows()
    for batch in batches(coco, rng, 7):
        rows.add(*batch)
    assert len(rows) == 100
    scores = evaluate(truths, found_in(rows.state(), [truth.image_id for truth in truths]), names)
    # Two detections overlap their truths by 0.6 and 0.8 exactly: they come back from the canvas to the last bit.
    assert [*scores.values.values()] == pytest.approx([*straight.values.values()], abs=1e-9)
    assert scores.by_class == pytest.approx(straight.by_class, abs=1e-9)


@pytest.mark.parametrize("hosts", [2, 3])
def test_photographs_that_several_processes_have_count_once(coco, rng, hosts):
    """The last batches of shorter processes repeat photographs of others; here half of all come twice."""
    one, shares = DetectionRows(), []
    for batch in batches(coco, np.random.default_rng(1), 8):
        one.add(*batch)
    for host in range(hosts):
        shares.append(DetectionRows())
        for batch in batches(coco, np.random.default_rng(1), 8):
            index, mask, *rest = batch
            shares[host].add(index, mask & ((index % hosts == host) | (index % 2 == 0)), *rest)
    assert sum(map(len, shares)) > len(one)
    together = merged([share.state() for share in shares])
    for name, values in one.state().items():
        np.testing.assert_array_equal(together[name], values, err_msg=name)
    assert evaluate(coco[0], found_in(together, [truth.image_id for truth in coco[0]]), coco[2]).photographs == 100


def test_a_photograph_that_comes_again_counts_once_and_masked_ones_do_not():
    rows = {
        "boxes": np.array([[[0, 0, 8, 8]], [[1, 1, 4, 4]], [[2, 2, 4, 4]]], np.float32),
        "scores": np.full((3, 1), 0.5, np.float32),
        "classes": np.array([[0], [1], [2]]),
        "valid": np.ones((3, 1), bool),
    }
    placement = np.stack([Placement((0.0, 0.0, 10.0, 20.0), (20, 10), (24, 12), (20, 10)).as_array()] * 3)
    gathered = DetectionRows()
    gathered.add(np.array([4, 4, 3]), np.array([True, True, False]), rows, placement)
    state = gathered.state()
    assert state["index"].tolist() == [4] and state["labels"].tolist() == [0] and state["boxes"].shape == (1, 4)


@pytest.mark.parametrize("clip", [True, False])
def test_boxes_are_in_the_photographs_pixels(clip):
    """A part of a photograph of 200×100 (height × width), 50 from its top, doubled."""
    placement = Placement((0.0, 50.0, 100.0, 150.0), (200, 200), (256, 256), (200, 100)).as_array()[None]
    rows = {
        "boxes": np.array([[[20, 40, 60, 100], [-8, 0, 220, 330]]], np.float32),
        "scores": np.array([[0.25, 0.75]], np.float32),
        "classes": np.array([[1, 0]], np.int32),
        "valid": np.array([[True, True]]),
    }
    gathered = DetectionRows(clip=clip)
    gathered.add(np.array([0]), np.array([True]), rows, placement)
    one = found_in(gathered.state(), [77])[77]
    assert one.boxes.tolist() == [[10, 70, 30, 100], [0, 50, 100, 200] if clip else [-4, 50, 110, 215]]
    assert one.boxes.dtype == np.float64 and one.scores.tolist() == [0.25, 0.75] and one.labels.tolist() == [1, 0]


def test_nothing_gathered_and_nothing_found():
    state = DetectionRows().state()
    assert {name: len(values) for name, values in state.items()} == dict.fromkeys(state, 0)
    assert found_in(merged([state, state]), []) == {} and results_json({}, [1]) == "[]\n"
    assert read_results("[]", [1]) == {}


def test_what_does_not_fit_is_refused():
    placement = Placement((0.0, 0.0, 10.0, 20.0), (20, 10), (24, 12), (20, 10)).as_array()[None]
    rows = {
        "boxes": np.array([[[0, 0, np.inf, 8]]], np.float32),
        "scores": np.full((1, 1), 0.5, np.float32),
        "classes": np.zeros((1, 1), np.int32),
        "valid": np.ones((1, 1), bool),
    }
    gathered = DetectionRows()
    with pytest.raises(ValueError, match="photograph 6 has a valid detection with a box or score that is not finite"):
        gathered.add(np.array([6]), np.array([True]), rows, placement)
    rows["valid"][:] = False
    gathered.add(np.array([6]), np.array([True]), rows, placement)
    with pytest.raises(ValueError, match="photograph 6, counted from 0, of data that have 5"):
        found_in(gathered.state(), [1, 2, 3, 4, 5])


def test_cocos_results_format_and_back(coco):
    truths, all_found, names, ids = coco
    assert ids != list(range(1, 81)) and max(ids) == 90  # with gaps
    text = results_json(all_found, ids)
    rows = json.loads(text)
    original = json.loads((coco_by_hand.FIXTURE / "instances_val2014_fakebbox100_results.json").read_text())
    key = lambda row: (row["image_id"], -row["score"], row["category_id"], row["bbox"])  # noqa: E731
    assert len(rows) == len(original) == 734
    for mine, theirs in zip(sorted(rows, key=key), sorted(original, key=key), strict=True):
        assert list(mine) == ["image_id", "category_id", "bbox", "score"]
        assert mine["bbox"] == pytest.approx(theirs["bbox"], abs=1e-9)
        assert {**mine, "bbox": 0} == {**theirs, "bbox": 0}
    again = read_results(text, ids)
    assert evaluate(truths, again, names).values == pytest.approx(evaluate(truths, all_found, names).values, abs=1e-12)
    assert results_json(again, ids).count("\n") == 734


def test_scores_of_the_file_have_all_their_digits():
    score = float(np.float32(0.1))
    one = coco_by_hand.found([(1, 2, 3.5, 7)], [score])
    text = results_json({9: one}, [44])
    assert json.loads(text) == [{"image_id": 9, "category_id": 44, "bbox": [1, 2, 2.5, 5], "score": score}]


@pytest.mark.parametrize("label", [-1, 2])
def test_classes_without_a_category_are_refused(label):
    with pytest.raises(
        ValueError, match=f"detections of image 9: class {label}; the 2 classes are numbered from 0 to 1"
    ):
        results_json({9: coco_by_hand.found([(1, 2, 3, 7)], [0.5], [label])}, [1, 44])


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ({"image_id": 1}, "must be a JSON list of detections, got dict"),
        ([{"image_id": 1, "category_id": 3, "bbox": [1, 2, 3], "score": 0.5}], "row 0 is no detection"),
        ([{"image_id": 1, "category_id": 3, "bbox": [1, 2, 3, 4]}], "row 0 is no detection"),
        (["a box"], "row 0 is no detection .*'a box'"),
        ([{"image_id": 1, "category_id": 3, "bbox": [1, 2, -3, 4], "score": 0.5}], "row 0 .*a negative side"),
        ([{"image_id": 1, "category_id": 3, "bbox": [1, 2, 3, 4], "score": float("nan")}], "not finite"),
        (
            [{"image_id": 1, "category_id": 2, "bbox": [1, 2, 3, 4], "score": 0.5}],
            "category_id 2; the classes have 1, 3",
        ),
    ],
)
def test_other_files_are_refused(rows, message):
    with pytest.raises(ValueError, match=message):
        read_results(json.dumps(rows), [1, 3])
