"""Tests of label maps in colours, alone, over photographs and in galleries."""

import numpy as np
import pytest
from PIL import Image

from aa_flax.drawing.boxes import class_color
from aa_flax.drawing.label_maps import as_picture, errors, label_colors, overlay
from aa_flax.drawing.plots import confusion_matrix
from aa_flax.drawing.segment_attention import deepest_pixel
from aa_flax.drawing.segmentation_gallery import Example, draw_segments_over, truths_beside_segments
from aa_flax.drawing.segmentation_plots import iou_by_class

NAMES = ("$sky_1$", "road\n", "tree\x00")


def test_colors_are_the_data_sets_or_those_of_boxes():
    own = label_colors(3)
    assert own.shape == (256, 3) and own[2].tolist() == [round(255 * part) for part in class_color(2)]
    assert not own[3:].any()
    assert label_colors(2, ((1, 2, 3), (4, 5, 6)))[:3].tolist() == [[1, 2, 3], [4, 5, 6], [0, 0, 0]]
    assert label_colors(3, ((1, 2, 3), (), (4, 5, 6)))[:3].tolist() == [[1, 2, 3], own[1].tolist(), [4, 5, 6]]
    with pytest.raises(ValueError, match="1 colours for 2 classes"):
        label_colors(2, ((1, 2, 3),))


def test_colors_mix_with_the_photograph_where_there_is_a_class():
    pixels = np.array([[[100], [100], [100]]], np.uint8)  # grey
    labels, colors = np.array([[0, 1, 255]], np.uint8), label_colors(2, ((200, 0, 0), (0, 100, 50)))
    assert overlay(pixels, labels, colors, 0.5).tolist() == [[[150, 50, 50], [50, 100, 75], [100, 100, 100]]]
    shown = errors(pixels, labels, np.array([[0, 0, 255]], np.uint8))
    assert shown[0, 0].tolist() == [178] * 3
    assert shown[0, 1, 0] > 200 > 80 > shown[0, 1, 1]
    wrong_nowhere = errors(pixels, np.array([[0, 0, 1]], np.uint8), np.array([[0, 0, 255]], np.uint8))
    assert wrong_nowhere[0].tolist() == [[178] * 3, [178] * 3, [0] * 3]


def test_pictures_of_labels_hold_the_labels(rng, tmp_path):
    labels, colors = rng.integers(0, 3, (5, 7)).astype(np.uint8), label_colors(3)
    as_picture(labels, colors).save(tmp_path / "labels.png")
    with Image.open(tmp_path / "labels.png") as opened:
        assert opened.mode == "P" and (np.asarray(opened) == labels).all()
        assert (np.asarray(opened.convert("RGB")) == colors[labels]).all()


def test_the_deepest_pixel_of_a_mask():
    mask = np.zeros((30, 40), bool)
    mask[3:18, 5:30], mask[25, 25] = True, True
    row, column = deepest_pixel(mask)
    assert row == 10 and 12 <= column <= 22
    large = np.zeros((700, 600), bool)
    large[401, 303] = True  # between the rows that are looked at first
    assert deepest_pixel(large) == (401, 303)
    assert deepest_pixel(np.ones((9, 9), bool)) == (4, 4)
    with pytest.raises(ValueError, match="no pixel"):
        deepest_pixel(np.zeros((4, 4), bool))


@pytest.mark.thorough
def test_pictures_of_a_segmentation_are_drawn(rng, tmp_path):
    colors, sizes = label_colors(3), ((20, 31), (33, 18))
    examples = [
        Example(rng.integers(0, 256, (*size, channels), np.uint8), *labels, "$a$\n")
        for size, channels in zip(sizes, (3, 1), strict=True)
        for labels in [[rng.choice(np.array([0, 2, 255], np.uint8), size), rng.integers(0, 3, size).astype(np.uint8)]]
    ]
    figure = truths_beside_segments(examples, NAMES, colors, tmp_path / "a.png")
    assert len(figure.axes) == 8 and "predicted" in {text.get_text() for text in figure.texts}
    draw_segments_over(examples[0].pixels, examples[0].given, NAMES, colors, 0.5, tmp_path / "b.png")
    with Image.open(tmp_path / "b.png") as drawn:
        assert drawn.size == (640, round(640 * 20 / 31) + 26)
    parts = dict(zip(NAMES, (0.5, 0.3, 0.2), strict=True))
    scores = dict(zip(NAMES, (0.5, None, 0.25), strict=True))
    axes = iou_by_class(scores, scores, parts, colors, tmp_path / "c.png").axes[0]
    assert [bar.get_width() for bar in axes.patches] == [
        0.5,
        0.25,
    ] and "mean 0.375" in axes.get_legend_handles_labels()[1]
    counts = np.array([[900_000, 100_000, 0], [0, 0, 0], [1, 0, 3]])
    texts = {text.get_text() for text in confusion_matrix(counts, NAMES, tmp_path / "d.png").axes[0].texts}
    assert texts == {"90", "10", "25", "75"}  # percents
    assert all((tmp_path / f"{name}.png").stat().st_size > 2000 for name in "abcd")
