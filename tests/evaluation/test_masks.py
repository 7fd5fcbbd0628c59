"""Tests of detections' masks: pasted into photographs, kept, sent between processes, written, and scored."""

import dataclasses
import json

import coco_by_hand
import numpy as np
import pytest

from aa_flax.data.masks import RunLengths, encoded
from aa_flax.data.placement import Placement, boxes_in_photo
from aa_flax.evaluation.coco import evaluate
from aa_flax.evaluation.coco_json import read_results, results_json
from aa_flax.evaluation.detection_rows import DetectionRows, found_in, merged
from aa_flax.evaluation.detections import Found
from aa_flax.evaluation.pasting import paste

OF_THE_FIXTURE = (
    "0.3195452759 0.5622883973 0.2989265341 0.3873740316 0.3101827240 0.3269339071 "
    "0.2682297226 0.4154486811 0.4168394992 0.4694498623 0.3767592267 0.3814715100"
)
"""What pycocotools gives for masks, to ten digits."""


@pytest.fixture(scope="module")
def coco():
    return coco_by_hand.fixture("segm")


def test_the_twelve_numbers_of_cocos_fixture(coco):
    truths, all_found, names, _ = coco
    scores = evaluate(truths, all_found, names, of="masks")
    of_boxes = evaluate(truths, all_found, names)
    assert tuple(scores.values) == tuple(f"mask_{name}" for name in of_boxes.values)
    np.testing.assert_allclose([*scores.values.values()], np.array(OF_THE_FIXTURE.split(), float), rtol=0, atol=1e-9)
    assert of_boxes.values["AP"] != scores.values["mask_AP"] and scores.photographs == 100


def test_cocos_results_format_and_back(coco):
    truths, all_found, names, ids = coco
    text = results_json(all_found, ids, "masks")
    original = json.loads((coco_by_hand.FIXTURE / "instances_val2014_fakesegm100_results.json").read_text())
    key = lambda row: (row["image_id"], -row["score"], row["category_id"], row["segmentation"]["counts"])  # noqa: E731
    for mine, theirs in zip(sorted(json.loads(text), key=key), sorted(original, key=key), strict=True):
        assert list(mine) == ["image_id", "category_id", "segmentation", "score"]
        assert mine == theirs
    again = evaluate(truths, read_results(text, ids), names, of="masks")
    assert again.values == evaluate(truths, all_found, names, of="masks").values


def test_other_masks_are_refused(coco):
    truths, all_found, names, ids = coco
    number, one = next((number, each) for number, each in all_found.items() if len(each) > 1)
    bare = dataclasses.replace(one, masks=None)
    with pytest.raises(ValueError, match=f"detections of image {number} have no masks"):
        evaluate(truths, {number: bare}, names, of="masks")
    with pytest.raises(ValueError, match=f"detections of image {number} have no masks"):
        results_json({number: bare}, ids, "masks")
    small = dataclasses.replace(one, masks=(encoded(np.ones((3, 4), bool)),) * len(one))
    with pytest.raises(ValueError, match=rf"image {number}: a mask of \(3, 4\), the photograph has \(\d+, \d+\)"):
        evaluate(truths, {number: small}, names, of="masks")
    with pytest.raises(ValueError, match=f"1 masks of {len(one)}; each or none has one"):
        dataclasses.replace(one, masks=one.masks[:1])
    with pytest.raises(ValueError, match="truths of image 7: the data set has no masks"):
        evaluate([coco_by_hand.truth(7, [(1, 2, 3, 4)])], {}, ["a"], of="masks")
    rows = json.loads(results_json({number: one}, ids, "masks"))
    rows[1]["bbox"] = [1, 2, 3, 4]
    assert read_results(json.dumps(rows), ids)[number].boxes[1].tolist() == [1, 2, 4, 6]
    del rows[0]["segmentation"]
    rows[0]["bbox"] = [1, 2, 3, 4]
    with pytest.raises(ValueError, match=f"some detections of image {number} have masks and some have none"):
        read_results(json.dumps(rows), ids)
    rows[0]["segmentation"] = {"size": [2, 2], "counts": [3]}
    with pytest.raises(ValueError, match="row 0 is no detection"):
        read_results(json.dumps(rows), ids)


def pasted_by_hand(square, box, size, threshold):
    """Paste pixel by pixel, as a loop over the cells around each point; beyond the square there is nothing."""
    cells, (x1, y1, x2, y2) = len(square), box
    pixels, sure = np.zeros(size, bool), np.ones(size, bool)
    for row, column in np.ndindex(*size):
        u = (column + 0.5 - x1) / (x2 - x1) * cells - 0.5
        v = (row + 0.5 - y1) / (y2 - y1) * cells - 0.5
        if not (-0.5 <= u <= cells - 0.5 and -0.5 <= v <= cells - 0.5):
            continue
        left, upper, value = int(np.floor(u)), int(np.floor(v)), 0.0
        for i, j in ((upper, left), (upper, left + 1), (upper + 1, left), (upper + 1, left + 1)):
            if 0 <= i < cells and 0 <= j < cells:
                value += square[i, j] * (1 - abs(v - i)) * (1 - abs(u - j))
        pixels[row, column] = value >= threshold
        sure[row, column] = abs(value - threshold) > 1e-9
    return pixels, sure


@pytest.mark.parametrize(
    "box",
    [
        (3.3, 2.9, 26.1, 17.2),
        (-7.5, -3.25, 12.0, 9.9),
        (20.0, 11.0, 44.4, 30.0),
        (5.2, 4.1, 6.1, 5.3),
        (9.0, 3, 9.0, 8),
    ],
)
def test_masks_are_pasted_at_the_centres_of_pixels(box, rng):
    """Inside, over both corners of the photograph, smaller than a cell's worth of pixels, and without area."""
    size = 19, 31
    square = rng.random((7, 7))
    pixels = paste(square, np.array(box), size, 0.45)
    if box[0] == box[2]:
        assert not pixels.any()
        return
    by_hand, sure = pasted_by_hand(square, box, size, 0.45)
    np.testing.assert_array_equal(pixels[sure], by_hand[sure])
    assert (pixels.any() or box[3] - box[1] < 2) and sure.mean() > 0.99 and pixels.shape == size


def test_a_whole_square_fills_its_box():
    pixels = paste(np.ones((28, 28)), np.array([2.0, 3.0, 9.0, 7.0]), (11, 13))
    expected = np.zeros((11, 13), bool)
    expected[3:7, 2:9] = True
    np.testing.assert_array_equal(pixels, expected)


def test_masks_pasted_by_pytorch(rng):
    """detectron2's form: `grid_sample` over the whole photograph."""
    torch = pytest.importorskip("torch")
    size, square, box = (19, 31), rng.random((7, 7)), np.array([3.3, 2.9, 26.1, 17.2])
    x = (np.arange(size[1]) + 0.5 - box[0]) / (box[2] - box[0]) * 2 - 1
    y = (np.arange(size[0]) + 0.5 - box[1]) / (box[3] - box[1]) * 2 - 1
    grid = torch.tensor(np.stack(np.meshgrid(x, y), -1))[None]
    sampled = torch.nn.functional.grid_sample(torch.tensor(square)[None, None], grid, align_corners=False)[0, 0].numpy()
    np.testing.assert_array_equal(paste(square, box, size), sampled >= 0.5)


def rows_of(truths, rng, k=4, m=5):
    """Return random rows of detections with masks for each photograph, and the placement of each."""
    places = []
    for one in truths:
        whole = (0.0, 0.0, float(one.width), float(one.height))
        places.append(Placement(whole, (40, 48), (48, 48), (one.height, one.width)).as_array())
    corners = np.sort(rng.uniform(-5, 53, (len(truths), k, 2, 2)), 2).astype(np.float32)
    rows = {
        "boxes": corners.reshape(len(truths), k, 4),
        "scores": rng.random((len(truths), k)).astype(np.float32),
        "classes": rng.integers(0, 80, (len(truths), k)),
        "valid": rng.random((len(truths), k)) < 0.7,
        "masks": rng.random((len(truths), k, m, m)).astype(np.float32),
    }
    return rows, np.stack(places)


@pytest.mark.parametrize("hosts", [1, 2, 4])
def test_masks_of_several_processes_count_once(coco, hosts):
    truths, _, names, ids = coco
    truths = truths[:10]
    rows, places = rows_of(truths, np.random.default_rng(0))
    one, shares = DetectionRows(masks=True), [DetectionRows(masks=True) for _ in range(hosts)]
    index, every = np.arange(10), np.ones(10, bool)
    one.add(index, every, rows, places)
    for host, share in enumerate(shares):
        share.add(index, (index % hosts == host) | (index < 4), rows, places)
    together = merged([share.state() for share in shares])
    for name, values in one.state().items():
        np.testing.assert_array_equal(together[name], values, err_msg=name)
        assert together[name].dtype == values.dtype and values.dtype != object
    found = found_in(together, [truth.image_id for truth in truths])
    for k, truth in enumerate(truths):
        own = rows["valid"][k]
        boxes = boxes_in_photo(rows["boxes"][k][own].astype(float), places[k])
        size = truth.height, truth.width
        expected = [paste(*each, size) for each in zip(rows["masks"][k][own], boxes, strict=True)]
        masks = found[truth.image_id].masks
        assert len(masks) == own.sum() and all(mask.size == size for mask in masks)
        for mask, pixels in zip(masks, expected, strict=True):
            np.testing.assert_array_equal(mask.pixels(), pixels)
    whole = found_in(one.state(), [truth.image_id for truth in truths])
    for of in ("boxes", "masks"):
        assert evaluate(truths, found, names, of=of).values == evaluate(truths, whole, names, of=of).values
    assert results_json(found, ids, "masks") == results_json(whole, ids, "masks")


def test_processes_without_photographs_have_masks_all_the_same():
    state = DetectionRows(masks=True).state()
    assert {name: len(values) for name, values in state.items()} == dict.fromkeys(state, 0)
    mask = encoded(np.ones((3, 4), bool))
    other = DetectionRows(masks=True)
    rows = {"boxes": np.zeros((1, 1, 4)), "scores": np.ones((1, 1)), "classes": np.zeros((1, 1), int)}
    rows |= {"valid": np.zeros((1, 1), bool), "masks": np.ones((1, 1, 2, 2))}
    other.add(np.array([0]), np.array([True]), rows, np.array([[0, 0, 4, 3, 3, 4, 3, 4]], np.float32))
    together = merged([state, other.state()])
    (nothing,) = found_in(together, [5]).values()
    assert nothing.masks == () and together["sizes"].tolist() == [[3, 4]]
    assert isinstance(mask, RunLengths) and mask.area == 12
    some = Found(np.zeros((2, 4)), np.array([0.5, 0.7]), np.zeros(2, int), (mask, encoded(np.zeros((3, 4), bool))))
    assert some.some(np.array([1])).masks[0].area == 0
