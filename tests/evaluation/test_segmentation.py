"""Tests of the scores of segmentations."""

import numpy as np
import pytest

from aa_flax.evaluation.segmentation import confusion, scores


def counted_one_by_one(pairs, num_classes, ignore):
    """Return what `scores` gives, counted pixel by pixel over all images together."""
    pixels = [
        (int(truth), int(given))
        for given_map, truth_map in pairs
        for given, truth in zip(given_map.flat, truth_map.flat, strict=True)
        if truth != ignore
    ]
    iou, accuracy = [], []
    for k in range(num_classes):
        both = sum(truth == k and given == k for truth, given in pixels)
        either = sum(truth == k or given == k for truth, given in pixels)
        own = sum(truth == k for truth, _ in pixels)
        iou.append(both / either if either else None)
        accuracy.append(both / own if own else None)
    means = [np.mean([value for value in values if value is not None]) for values in (iou, accuracy)]
    return *means, sum(truth == given for truth, given in pixels) / len(pixels), iou, accuracy


@pytest.mark.parametrize("seed", range(6))
def test_scores_are_those_counted_pixel_by_pixel(seed):
    rng = np.random.default_rng(seed)
    num_classes, ignore = int(rng.integers(2, 8)), int(rng.choice([255, 200]))
    # Classes that no image has, and that none is given.
    true, given = (rng.choice(num_classes, max(1, num_classes - drop), replace=False) for drop in (seed % 3, seed % 2))
    pairs, total = [], np.zeros((num_classes, num_classes), np.int64)
    for _ in range(3):
        size = tuple(rng.integers(1, 13, 2))
        labels = rng.choice(true, size).astype(np.uint8)
        labels[rng.random(size) < 0.3] = ignore
        pairs.append((rng.choice(given, size).astype(rng.choice([np.int32, np.uint8])), labels))
        total += confusion(*pairs[-1], num_classes, ignore)
    found = scores(total)
    mean_iou, mean_accuracy, pixel_accuracy, iou, accuracy = counted_one_by_one(pairs, num_classes, ignore)
    # All are quotients of the same whole numbers; means differ by the order of additions.
    assert (found.iou, found.accuracy, found.pixel_accuracy) == (tuple(iou), tuple(accuracy), pixel_accuracy)
    np.testing.assert_allclose([found.mean_iou, found.mean_accuracy], [mean_iou, mean_accuracy], rtol=1e-14)


def test_rows_are_true_classes_and_columns_given_ones():
    found = confusion(np.array([[1, 1, 2, 0]]), np.array([[0, 0, 2, 255]], np.uint8), 3)
    assert found.dtype == np.int64 and found.tolist() == [[0, 2, 0], [0, 0, 0], [0, 0, 1]]
    assert scores(found).iou == (0.0, 0.0, 1.0) and scores(found).accuracy == (0.0, None, 1.0)


def test_counts_beyond_32_bits_and_labels_of_8_bits():
    labels = np.full((40, 40), 199, np.uint8)
    assert confusion(labels, labels, 200)[199, 199] == 1600  # 199 * 200 + 199 is no uint8
    assert scores(np.diag([2**40, 2**41])).pixel_accuracy == 1.0


@pytest.mark.parametrize(
    ("predicted", "labels", "message"),
    [
        ([[0, 3]], [[0, 1]], "predicted is the class 3 of 1 pixels, expected 0 to 2"),
        ([[0, -1]], [[0, 255]], "predicted is the class -1 of 1 pixels, expected 0 to 2"),
        ([[0, 1]], [[9, 9]], "labels have the class 9 of 2 pixels, expected 0 to 2"),
        ([[0, 1]], [[0], [1]], r"pixels \(1, 2\), and the labels are of \(2, 1\)"),
    ],
)
def test_what_is_no_class_is_an_error(predicted, labels, message):
    with pytest.raises(ValueError, match=message):
        confusion(np.array(predicted), np.array(labels), 3)


def test_nothing_counted_has_no_score():
    nothing = confusion(np.zeros((2, 3), int), np.full((2, 3), 255, np.uint8), 4)
    assert not nothing.any()
    with pytest.raises(ValueError, match="no pixel was counted"):
        scores(nothing)
