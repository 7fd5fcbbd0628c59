"""Tests of placements: shapes that are drawn into a photograph are found on its canvas where their boxes say."""

import io

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from aa_flax.data.array_source import ArraySource
from aa_flax.data.augment.device import flipped, flipped_boxes, without_padding
from aa_flax.data.boxes import Boxes
from aa_flax.data.fast_jpeg import decode_part_fast
from aa_flax.data.images import as_picture, decode_part, framed
from aa_flax.data.pipeline import eval_batches, train_batches
from aa_flax.data.placement import boxes_in_photo, boxes_on_canvas, resized, scaled
from aa_flax.data.view import View

SHAPES = {(61, 97): (13, 7, 41, 30), (97, 61): (5, 50, 31, 90), (30, 31): (4, 6, 22, 25)}
"""Boxes x1, y1, x2, y2 in photographs of these heights and widths."""


def photo(shape, box):
    """Return a black photograph with a white box."""
    pixels = np.zeros((*shape, 3), np.uint8)
    x1, y1, x2, y2 = box
    pixels[y1:y2, x1:x2] = 255
    return pixels


def seen(pixels):
    """Return the box around the bright pixels, edges where they cross half the brightness; None for none."""
    bright = np.asarray(pixels, float).mean(-1) / 255
    if bright.max(initial=0) < 0.6:
        return None
    edges = []
    for profile in (bright.max(0), bright.max(1)):
        (above,) = np.nonzero(profile >= 0.5)
        edges.append((above[0], above[-1] + 1))
    (left, right), (top, bottom) = edges
    return np.array([left, top, right, bottom], float)


def framings():
    rng = np.random.default_rng(5)
    for canvas in ((64, 64), (48, 80), (80, 40)):
        yield canvas, scaled(canvas)
        yield canvas, resized(canvas)
        yield canvas, resized(canvas, lambda h, w: (0.1 * w, 0.2 * h, 0.9 * w, 0.95 * h))
        for factor in (0.4, 0.8, 1.1, 1.9):
            yield canvas, scaled(canvas, factor, tuple(rng.random(2)))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("decode", [None, decode_part, decode_part_fast])
def test_a_drawn_shape_lies_where_its_box_says(shape, decode):
    if decode is decode_part_fast:
        pytest.importorskip("simplejpeg")
        pytest.importorskip("cykooz_resizer")
    box, found = SHAPES[shape], 0
    buffer = io.BytesIO()
    Image.fromarray(photo(shape, box)).save(buffer, "jpeg", quality=100, subsampling=0)
    for canvas, framing in framings():
        if decode is None:
            pixels, placement = framed(as_picture(photo(shape, box)), framing)
        else:
            pixels, placement = decode(buffer.getvalue(), 3, framing)
        assert pixels.shape == (*canvas, 3) and placement.photo == shape
        height, width = placement.size
        assert (pixels[height:] < 12).all() and (pixels[:, width:] < 12).all()
        expected = boxes_on_canvas(np.array([box], float), placement.as_array())[0]
        expected = np.clip(expected, 0, [width, height, width, height])
        drawn = seen(pixels)
        if drawn is not None and (expected[2:] - expected[:2] > 4).all():
            found += 1
            np.testing.assert_allclose(drawn, expected, atol=1.01)
    assert found >= 12


def test_boxes_return_to_the_photograph(rng):
    boxes = rng.uniform(-5, 90, (7, 4))
    for _, framing in framings():
        placement = framing(61, 97).as_array()
        np.testing.assert_allclose(boxes_in_photo(boxes_on_canvas(boxes, placement), placement), boxes, atol=1e-9)


def test_the_largest_scale_at_which_all_fits():
    for shape in ((61, 97), (97, 61), (1, 400), (400, 1), (640, 480)):
        for canvas in ((64, 64), (48, 80)):
            placement = scaled(canvas)(*shape)
            assert placement.window == (0, 0, shape[1], shape[0])
            assert max(placement.size[0] / canvas[0], placement.size[1] / canvas[1]) == 1
            scale = min(canvas[0] / shape[0], canvas[1] / shape[1])
            assert placement.size == tuple(max(1, round(side * scale)) for side in shape)


@pytest.mark.parametrize("factor", [0.1, 0.8, 1.0, 1.37, 2.0])
def test_what_is_cut_lies_within_the_photograph(rng, factor):
    for _ in range(20):
        height, width = rng.integers(20, 300, 2).tolist()
        placement = scaled((48, 80), factor, tuple(rng.random(2)))(height, width)
        left, upper, right, lower = placement.window
        assert 0 <= left < right <= width and 0 <= upper < lower <= height
        assert placement.size[0] <= 48 and placement.size[1] <= 80
        # The aspect is kept: pixels of the canvas are as high as they are wide, to half a pixel of the whole.
        down, across = placement.size[0] / (lower - upper), placement.size[1] / (right - left)
        scale = factor * min(48 / height, 80 / width)
        assert abs(down - scale) <= 0.5 / height + 1e-9 and abs(across - scale) <= 0.5 / width + 1e-9
    corners = [scaled((48, 80), 2.0, corner)(48, 80).window for corner in ((0.0, 0.0), (0.999999, 0.999999))]
    assert corners[0][:2] == (0, 0) and corners[1][2:] == (80, 48)


def test_images_are_mirrored_within_their_own_width(rng):
    images = np.zeros((4, 20, 30, 3), np.float32)
    widths, boxes = (
        np.array([30, 22, 22, 9], np.float32),
        np.array([[3, 5, 9, 12], [8, 2, 20, 9], [8, 2, 20, 9], [0, 0, 4, 3]]),
    )
    for i, (x1, y1, x2, y2) in enumerate(boxes):
        images[i, y1:y2, x1:x2] = 255
        images[i, :, int(widths[i]) :] = 7  # padding
    chosen = np.array([True, True, False, True])
    turned = np.asarray(flipped(jnp.asarray(images), jnp.asarray(chosen), jnp.asarray(widths)))
    moved = flipped_boxes(jnp.asarray(boxes[:, None], jnp.float32), jnp.asarray(chosen), jnp.asarray(widths))
    for i in range(4):
        assert (turned[i, :, int(widths[i]) :] == 7).all()
        np.testing.assert_array_equal(seen(turned[i, :, : int(widths[i])]), moved[i, 0])
    assert (turned[2] == images[2]).all() and not (turned[1] == images[1]).all()


def test_padding_becomes_zero(rng):
    images = rng.normal(size=(2, 5, 7, 3)).astype(np.float32)
    kept = np.asarray(without_padding(jnp.asarray(images), jnp.asarray([[5.0, 7.0], [3.0, 4.0]])))
    np.testing.assert_array_equal(kept[0], images[0])
    np.testing.assert_array_equal(kept[1, :3, :4], images[1, :3, :4])
    assert (kept[1, 3:] == 0).all() and (kept[1, :, 4:] == 0).all()


@pytest.fixture
def source():
    """Return photographs of several sizes with a white box each, and an image without objects."""
    targets, sizes = Boxes(most=3), [*SHAPES] * 4
    images = [photo(shape, SHAPES[shape]) for shape in sizes] + [np.zeros((40, 50, 3), np.uint8)]
    values = {name: np.zeros((13, *each.shape), each.dtype) for name, each in targets.shapes.items()}
    for i, shape in enumerate(sizes):
        values["boxes"][i, 0], values["classes"][i, 0], values["valid"][i, 0] = SHAPES[shape], i % 2, True
    return ArraySource("boxes", images, values, targets.placed)


def test_batches_for_training_move_boxes_with_their_images(source):
    settings = dict(batch_size=4, seed=3, image_size=(48, 80), crop="scaled", scale_range=(0.5, 1.8), num_threads=0)
    with train_batches(source, **settings) as batches:
        several = [next(batches) for _ in range(6)]
    checked = 0
    for batch in several:
        assert batch["image"].shape == (4, 48, 80, 3) and batch["placement"].shape == (4, 8)
        for pixels, boxes, valid in zip(batch["image"], batch["boxes"], batch["valid"], strict=True):
            drawn = seen(pixels)
            if valid.any() and (boxes[0, 2:] - boxes[0, :2] > 4).all():
                np.testing.assert_allclose(drawn, boxes[0], atol=1.01)
                checked += 1
            assert (boxes[~valid] == 0).all() and valid.sum() <= 1
    assert checked > 10
    scales = {tuple(row[4:6]) for batch in several for row in batch["placement"].tolist()}
    assert len(scales) > 8
    shares = []
    for index in range(2):  # what each of two processes reads of the same batches
        with train_batches(source, **settings, process_index=index, process_count=2) as batches:
            shares.append([next(batches) for _ in range(2)])
    for step in range(2):
        for name, whole in several[step].items():
            np.testing.assert_array_equal(np.concatenate([share[step][name] for share in shares]), whole)


def test_batches_for_evaluation_say_how_each_image_lies(source):
    with eval_batches(source, batch_size=5, view=View((48, 80), "fit"), num_threads=0) as batches:
        rows = [{name: values[i] for name, values in batch.items()} for batch in batches for i in range(5)]
    assert len(rows) == 15 and [bool(row["mask"]) for row in rows] == [True] * 13 + [False] * 2
    for row, shape in zip(rows, [*SHAPES] * 4, strict=False):
        found = boxes_in_photo(row["boxes"][:1].astype(float), row["placement"])
        np.testing.assert_allclose(found[0], SHAPES[shape], atol=1e-3)
    assert not rows[12]["valid"].any() and np.isfinite(boxes_in_photo(np.ones((1, 4)), rows[14]["placement"])).all()


def test_crops_that_would_leave_boxes_behind_are_refused(source):
    with pytest.raises(ValueError, match="'pad'"):
        train_batches(source, batch_size=2, seed=0, image_size=(48, 48), crop="pad", fill=(0, 0, 0))
    for wrong in ((1.2, 0.8), (0.0, 1.0), (1.0,), (1.0, float("inf")), (float("nan"), 1.0)):
        with pytest.raises(ValueError, match="scale_range"):
            train_batches(source, batch_size=2, seed=0, image_size=(48, 48), crop="scaled", scale_range=wrong)
