"""Tests of the boxes of images as targets."""

import numpy as np
import pytest
import tensorflow_datasets as tfds
from photo_sets import photos, write_coco

from aa_flax.data import Boxes, ClassLabel, DataError, TolerantSource, load
from aa_flax.data.placement import Placement


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    folder = tmp_path_factory.mktemp("boxes")
    return load("coco_json/it", data_dir=folder / "tfds", source_dir=write_coco(folder / "it", photos()))


def test_arrays_of_fixed_shapes(dataset):
    source, truths = dataset.split("train", Boxes(7)), dataset.truths("train")
    assert {name: (each.shape, each.dtype) for name, each in source.target_shapes.items()} == {
        "boxes": ((7, 4), np.float32),
        "classes": ((7,), np.int32),
        "valid": ((7,), np.bool_),
    }
    counts = []
    for example, truth in zip(source, truths, strict=True):
        kept = [number for number in range(len(truth.objects)) if not truth.objects.crowd[number]]
        n = len(kept)
        counts.append(n)
        np.testing.assert_array_equal(example["boxes"][:n], truth.objects.boxes[kept].astype(np.float32))
        np.testing.assert_array_equal(example["classes"][:n], truth.objects.labels[kept])
        assert example["valid"].tolist() == [True] * n + [False] * (7 - n)
        assert not example["boxes"][n:].any() and not example["classes"][n:].any()
    assert 0 in counts and max(counts) > 1 and sum(truth.objects.crowd.sum() for truth in truths) > 0
    every = source.all_targets()
    assert every["boxes"].shape == (5, 7, 4) and every["valid"].sum() == sum(counts)


def test_without_targets_a_detection_set_gives_its_boxes(dataset):
    assert dataset.split("val").target_shapes["boxes"].shape == (100, 4)


def test_too_many_objects_name_the_example(dataset):
    counts = [int((~truth.objects.crowd).sum()) for truth in dataset.truths("train")]
    most = max(counts)
    dataset.split("train", Boxes(most)).all_targets()
    source = dataset.split("train", Boxes(most - 1))
    index = counts.index(most)
    with pytest.raises(
        DataError,
        match=rf"example {index} of .*: {most} objects, expected at most {most - 1}: raise task.options.most_objects",
    ):
        source.targets(index)


def test_a_damaged_example_is_replaced_within_the_budget(dataset, monkeypatch):
    source = dataset.split("train")
    record = source._read_one

    def damaged(index):
        found = record(index)
        return {**found, "objects": {**found["objects"], "label": [9] * len(found["objects"]["label"])}}

    index = max(range(5), key=lambda i: source.targets(i)["valid"].sum())
    monkeypatch.setattr(source, "_read_one", lambda i: damaged(i) if i == index else record(i))
    with pytest.raises(DataError, match=f"example {index} of .*: object 0 has the class 9, expected 0 to 2"):
        source[index]
    tolerant = TolerantSource(source, 1)
    np.testing.assert_array_equal(tolerant[index]["boxes"], source[(index + 1) % 5]["boxes"])
    assert list(tolerant.damaged) == [index]


@pytest.mark.parametrize("arguments", [{"most": 0}, {"most": -3}, {"least_side": -1.0}, {"least_side": float("nan")}])
def test_arguments(arguments):
    with pytest.raises(ValueError, match="expected 1 or more and 0 or more"):
        Boxes(**arguments)


def by_hand(boxes, classes, placement, least):
    """Return what stays of boxes on a canvas, by a loop in float64."""
    left, upper, right, lower = placement.window
    height, width = placement.size
    kept = []
    for (x1, y1, x2, y2), label in zip(boxes.astype(float), classes, strict=True):
        xs = [min(max((x - left) * width / (right - left), 0.0), width) for x in (x1, x2)]
        ys = [min(max((y - upper) * height / (lower - upper), 0.0), height) for y in (y1, y2)]
        if min(xs[1] - xs[0], ys[1] - ys[0]) >= max(least, 1e-12):
            kept.append((xs[0], ys[0], xs[1], ys[1], label))
    return kept


@pytest.mark.parametrize("least", [0.0, 1.0, 4.0])
def test_boxes_on_a_canvas(least, rng):
    targets = Boxes(11, least)
    dropped = 0
    for _ in range(60):
        n = int(rng.integers(0, 12))
        corners = np.sort(rng.uniform(0, 90, (n, 2, 2)), 1).astype(np.float32).reshape(n, 4)
        values = targets._filled(targets.shapes, corners, rng.integers(0, 5, n))
        left, upper = rng.uniform(-20, 60, 2)
        window = (left, upper, left + rng.uniform(5, 70), upper + rng.uniform(5, 70))
        placement = Placement(window, (int(rng.integers(5, 80)), int(rng.integers(5, 97))), (80, 97), (90, 90))
        placed = targets.placed(values, placement.as_array())
        # The placement is in float32, so the reference takes it from there.
        window = tuple(placement.as_array()[:4].astype(float))
        kept = by_hand(corners, values["classes"][:n], Placement(window, placement.size, (80, 97), (90, 90)), least)
        dropped += n - len(kept)
        assert placed["valid"].tolist() == [True] * len(kept) + [False] * (11 - len(kept))
        expected = np.array(kept).reshape(-1, 5)
        np.testing.assert_allclose(placed["boxes"][: len(kept)], expected[:, :4], atol=1e-4)  # float32 of up to 97
        np.testing.assert_array_equal(placed["classes"][: len(kept)], expected[:, 4])
        assert not placed["boxes"][len(kept) :].any()
        assert {name: (v.shape, v.dtype) for name, v in placed.items()} == {
            name: (each.shape, each.dtype) for name, each in targets.shapes.items()
        }
    assert dropped > 20


def test_of_a_box_at_the_edge_what_is_seen_counts():
    targets = Boxes(5)
    boxes = np.array([[0, 0, 10.9, 5], [0, 0, 11.1, 5], [-5, 3, 12, 40], [12, 0, 12, 9]], np.float32)
    values = targets._filled(targets.shapes, boxes, np.arange(1, 5))
    placed = targets.placed(values, Placement((10.0, 0.0, 20.0, 20.0), (20, 10), (20, 30), (20, 30)).as_array())
    assert placed["classes"].tolist() == [2, 3, 0, 0, 0] and placed["valid"].tolist() == [True] * 2 + [False] * 3
    np.testing.assert_allclose(placed["boxes"][:2], [[0, 0, 1.1, 5], [0, 3, 2, 20]], atol=1e-5)


def test_kinds_of_targets_and_of_data(dataset, embedded):
    with pytest.raises(DataError, match=r"objects with a box and a class each \('objects'\), not one class each"):
        dataset.split("train", ClassLabel())
    with pytest.raises(DataError, match="expected one sequence of objects with a box .* no data set of detection"):
        embedded.split("train", Boxes())
    with pytest.raises(DataError, match="a class each and no boxes"):
        embedded.truths("train")


def test_two_sequences_of_objects_are_not_chosen_among():
    box = {"bbox": tfds.features.BBoxFeature(), "label": tfds.features.ClassLabel(num_classes=2)}
    features = tfds.features.FeaturesDict(
        {"image": tfds.features.Image(), "faces": tfds.features.Sequence(box), "cars": tfds.features.Sequence(box)}
    )
    with pytest.raises(DataError, match="there are: cars, faces"):
        Boxes().reader(features)
