"""Tests of masks in pictures: tinted over photographs, and as numbers of pixels."""

import json

import coco_by_hand
import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from aa_flax.data.annotated import Objects, Truth
from aa_flax.data.masks import encoded
from aa_flax.drawing.boxes import draw_boxes
from aa_flax.drawing.detection_gallery import truths_beside_detections
from aa_flax.drawing.masks import instance_map, masks_over, square
from aa_flax.evaluation.detections import Found

SIZE = 40, 60
RED, BLUE = (1.0, 0.0, 0.0), (0.0, 0.0, 1.0)


def disc(x, y, radius, size=SIZE):
    rows, columns = np.mgrid[: size[0], : size[1]] + 0.5
    return (rows - y) ** 2 + (columns - x) ** 2 < radius**2


def test_what_lies_outside_masks_stays_and_the_first_lies_above(rng):
    pixels = rng.integers(0, 200, (*SIZE, 3), np.uint8)
    first, second = disc(20, 20, 12), disc(30, 20, 12)
    picture = masks_over(pixels, [first, second, np.zeros(SIZE, bool)], [RED, BLUE, BLUE])
    np.testing.assert_array_equal(picture[~first & ~second], pixels[~first & ~second])
    alone = second & ~disc(20, 20, 13.5) & disc(30, 20, 10)
    tinted = pixels[alone] + 0.45 * (255 * np.array(BLUE) - pixels[alone])
    np.testing.assert_allclose(picture[alone], tinted, atol=0.51)
    both = disc(20, 20, 10) & disc(30, 20, 10)
    under = pixels[both] + 0.45 * (255 * np.array(BLUE) - pixels[both])
    np.testing.assert_allclose(picture[both], under + 0.45 * (255 * np.array(RED) - under), atol=0.51)
    inner = first.copy()
    inner[1:-1, 1:-1] &= first[:-2, 1:-1] & first[2:, 1:-1] & first[1:-1, :-2] & first[1:-1, 2:]
    assert (picture[first & ~inner] == [255, 0, 0]).all() and (first & ~inner).sum() > 30


def test_masks_at_the_border_are_outlined_there():
    picture = masks_over(np.zeros((4, 5, 3), np.uint8), [np.ones((4, 5), bool)], [RED])
    assert (picture[[0, -1]] == [255, 0, 0]).all() and picture[1, 1].tolist() == [115, 0, 0]


@pytest.mark.parametrize("count", [2, 300])
def test_pixels_are_the_numbers_of_objects(count, tmp_path):
    masks = [encoded(disc(20, 20, 12)), encoded(disc(30, 20, 12))]
    masks += [encoded(np.zeros(SIZE, bool))] * (count - 2)
    picture = instance_map(masks, SIZE, [RED, BLUE] * (count // 2))
    picture.save(tmp_path / "masks.png")
    read = Image.open(tmp_path / "masks.png")
    expected = np.where(disc(20, 20, 12), 1, np.where(disc(30, 20, 12), 2, 0))
    np.testing.assert_array_equal(np.asarray(read), expected)
    assert read.mode == ("P" if count < 256 else "I;16") and read.size == SIZE[::-1]
    if count < 256:
        assert read.convert("RGB").getpixel((20, 20)) == (255, 0, 0) and read.convert("RGB").getpixel((0, 0)) == (
            0,
            0,
            0,
        )
    assert not np.asarray(instance_map([], SIZE, [])).any()


def test_a_square_covers_its_box():
    figure = Figure(figsize=(6, 4), dpi=100)
    FigureCanvasAgg(figure)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.imshow(np.zeros((*SIZE, 3), np.uint8))
    limits = axes.get_xlim(), axes.get_ylim()
    square(axes, np.array([[0, 1], [1, 1]]), np.array([10.0, 8, 30, 28]), RED)
    assert (axes.get_xlim(), axes.get_ylim()) == limits
    figure.canvas.draw()
    drawn = np.asarray(figure.canvas.buffer_rgba())[..., 0]
    seen = drawn[5::10, 5::10] > 60  # ten pixels of the picture for each of the photograph
    expected = np.zeros(SIZE, bool)
    expected[8:28, 10:30] = True
    expected[8:18, 10:20] = False
    np.testing.assert_array_equal(seen, expected)


def test_boxes_with_masks():
    grey = np.full((*SIZE, 3), 90, np.uint8)
    boxes, masks = np.array([(8.0, 8, 32, 32), (18, 8, 42, 32)]), [disc(20, 20, 12), disc(30, 20, 12)]
    others = np.arange(2), ["a", "b"], np.array([0.5, 0.9])
    bare, tinted = (draw_boxes(grey, boxes, *others, masks=each) for each in (None, masks))
    for figure in (bare, tinted):
        figure.canvas.draw()
    pictures = [np.asarray(figure.canvas.buffer_rgba()).astype(int)[..., :3] for figure in (bare, tinted)]
    changed = (abs(pictures[0] - pictures[1]) > 20).any(-1)
    scale = changed.shape[1] / SIZE[1]  # names of colours may stand below
    assert changed[int(20 * scale), int(20 * scale)] and not changed[int(37 * scale), int(52 * scale)]
    middle = pictures[1][int(24 * scale), int(25 * scale)]  # both cover it: the surer one's colour prevails, blue
    assert middle[2] > middle[0]


def test_the_gallery_has_both_masks(tmp_path):
    mask = encoded(disc(20, 20, 12))
    box, one = np.array([[8.0, 8, 32, 32]]), np.ones(1)
    objects = Objects(box, np.zeros(1, int), np.zeros(1, bool), one, np.array([1]), (json.dumps(mask.values()),))
    truths = [Truth(4, "a.jpg", *SIZE, objects), coco_by_hand.truth(5, size=SIZE)]
    found = [
        Found(box, one * 0.9, np.zeros(1, int), (mask,)),
        Found(np.zeros((0, 4)), np.zeros(0), np.zeros(0, int), ()),
    ]
    photos = [np.full((*SIZE, 3), 90, np.uint8)] * 2
    file = tmp_path / "gallery.png"
    truths_beside_detections(photos, truths, found, ["disc"], 0.5, file)
    picture = np.asarray(Image.open(file).convert("RGB")).astype(int)
    red = (picture[..., 0] - picture[..., 2] > 40).nonzero()[1]
    middle = picture.shape[1] / 2
    assert (red < middle).sum() > 1000 and (red > middle).sum() > 1000
