"""Tests of the masks that Mask R-CNN learns: targets by region, and their loss."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from aa_flax.data.masks import cropped
from aa_flax.tasks.mask_losses import mask_losses, mask_targets

SIDE, CELLS = 7, 30


def covered(inside, region, side, finer=40):
    """Return how much of each cell of a region lies where `inside(x, y)` says, by many points."""
    x1, y1, x2, y2 = region
    steps = (np.arange(side * finer) + 0.5) / (side * finer)
    x, y = np.meshgrid(x1 + steps * (x2 - x1), y1 + steps * (y2 - y1))
    return inside(x, y).reshape(side, finer, side, finer).mean((1, 3))


def squares(masks, boxes):
    """Return the squares of objects: cells whose centres are inside."""
    steps = (np.arange(CELLS) + 0.5) / CELLS
    grids = [np.meshgrid(x1 + steps * (x2 - x1), y1 + steps * (y2 - y1)) for x1, y1, x2, y2 in boxes]
    return np.stack([mask(x, y) for mask, (x, y) in zip(masks, grids, strict=True)]).astype(np.uint8)


BOXES = np.array([(10, 20, 70, 50), (3, 4, 21, 64)], np.float32)
MASKS = (  # along borders of cells, so that squares are exact
    lambda x, y: (x >= 10) & (x < 40) & (y >= 20) & (y < 50) | (x < 70) & (x >= 40) & (y >= 35) & (y < 50),
    lambda x, y: (x >= 3) & (x < 21) & (y >= 4) & (y < 64) & ((x < 12) | (y >= 34)),
)
REGIONS = np.array(
    [(10, 20, 70, 50), (0, 10, 80, 60), (25.5, 30.25, 52, 44), (60, 40, 90, 80), (200, 200, 220, 230), (0, 0, 30, 70)],
    np.float32,
)
"""The box itself, around it, inside, over its corner, elsewhere; and of the other object."""
MATCHES = np.array([0, 0, 0, 0, 0, 1])


@pytest.fixture(scope="module")
def targets():
    arguments = squares(MASKS, BOXES)[None], BOXES[None], REGIONS[None], MATCHES[None]

    @jax.jit
    def every(*arguments):
        kinds = [(hard, aligned) for hard in (False, True) for aligned in (False, True)]
        return {kind: mask_targets(*arguments, side=SIDE, hard=kind[0], aligned=kind[1])[0] for kind in kinds}

    return every(*map(jnp.asarray, arguments))


@pytest.mark.parametrize("aligned", [True, False])
def test_targets_are_the_parts_of_cells_that_are_covered(targets, aligned):
    shift = 0 if aligned else 0.5
    for region, match, found in zip(REGIONS, MATCHES, targets[False, aligned], strict=True):
        by_points = covered(MASKS[match], region.astype(float) + shift, SIDE)
        np.testing.assert_allclose(found, by_points, atol=0.03)  # of the points: one of forty at each of two edges
    assert float(targets[False, aligned][4].max()) == 0 < float(targets[False, aligned][3].max())


def test_hard_targets_are_halves_rounded(targets):
    for aligned in (True, False):
        soft, hard = (np.asarray(targets[kind, aligned]) for kind in (False, True))
        sure = abs(soft - 0.5) > 1e-5
        np.testing.assert_array_equal(hard[sure], soft[sure] > 0.5)
        assert {*np.unique(hard)} == {0, 1}


def test_a_half_counts():
    """A square of which one half is covered, seen by one cell."""
    mask = (np.arange(CELLS) < CELLS // 2).astype(np.uint8) * np.ones((1, 1, CELLS, 1), np.uint8)
    box = np.array([[[4, 6, 34, 36]]], np.float32)
    arguments = (jnp.asarray(each) for each in (mask, box, box, np.array([[0]])))
    assert float(mask_targets(*arguments, side=1, hard=True, aligned=True)[0, 0, 0, 0]) == 1


def test_regions_without_size_and_without_object_give_numbers():
    empty = np.zeros((1, 2, 4), np.float32)
    some = mask_targets(
        jnp.asarray(squares(MASKS, BOXES)[None]),
        jnp.asarray(np.stack([BOXES[0], np.zeros(4, np.float32)])[None]),
        jnp.asarray(empty),
        jnp.asarray([[1, -2]]),
        side=SIDE,
        hard=False,
        aligned=True,
    )
    assert np.isfinite(some).all()


def test_targets_are_torchvisions_up_to_its_pixels(rng):
    """torchvision's form: RoIAlign, not aligned, of the mask of the whole canvas, written here as loops over points."""
    canvas = 90, 120
    polygon = [20.0, 15, 95, 30, 70, 80, 40, 60]
    text = f"[{polygon}]"
    box = np.array([20, 15, 95, 80], np.float32)
    whole = cropped(text, np.array([0, 0, 120, 90.0]), canvas, 360)  # finer than pixels, to be averaged to them
    pixels = whole.reshape(90, 4, 120, 3).mean((1, 3))
    square = cropped(text, box.astype(float), canvas, 112)
    region = np.array([15.3, 20.1, 88.7, 76.9], np.float32)
    found = mask_targets(
        *(jnp.asarray(each[None, None]) for each in (square, box, region)),
        jnp.zeros((1, 1), jnp.int32),
        side=28,
        hard=False,
        aligned=False,
    )[0, 0]
    x1, y1, x2, y2 = region.astype(float)
    samples = int(np.ceil((y2 - y1) / 28)), int(np.ceil((x2 - x1) / 28))
    expected = np.zeros((28, 28))
    for row, column in np.ndindex(28, 28):
        for i, j in np.ndindex(samples):
            y = y1 + (row + (i + 0.5) / samples[0]) * (y2 - y1) / 28
            x = x1 + (column + (j + 0.5) / samples[1]) * (x2 - x1) / 28
            top, left = int(y), int(x)
            part = pixels[top : top + 2, left : left + 2]
            weights = np.outer([1 - (y - top), y - top], [1 - (x - left), x - left])
            expected[row, column] += (part * weights).sum() / np.prod(samples)
    difference = abs(np.asarray(found) - expected)
    assert difference.mean() < 0.01 and np.quantile(difference, 0.95) < 0.1
    shifted = np.roll(expected, 1, 0)
    assert abs(np.asarray(found) - shifted).mean() > 2 * difference.mean()  # half a pixel would be seen


def test_the_loss_is_of_the_objects_class_and_of_regions_with_an_object(rng):
    logits = rng.normal(0, 3, (2, 5, SIDE, SIDE, 4)).astype(np.float32)
    wanted = rng.random((2, 5, SIDE, SIDE)).astype(np.float32)
    columns, positive = rng.integers(0, 4, (2, 5)), np.array([[1, 1, 0, 1, 0], [0, 0, 0, 0, 0]], bool)
    arguments = [jnp.asarray(each) for each in (logits, wanted, columns, positive)]
    found, gradient = jax.jit(lambda x, *rest: jax.value_and_grad(lambda y: mask_losses(y, *rest).sum())(x))(*arguments)
    expected = 0.0
    for image, region in np.argwhere(positive):
        x = logits[image, region, ..., columns[image, region]].astype(np.float64)
        t, p = wanted[image, region], 1 / (1 + np.exp(-x))
        expected += float(-(t * np.log(p) + (1 - t) * np.log1p(-p)).mean())
    assert float(found) == pytest.approx(expected, rel=1e-5)
    touched = np.asarray(gradient != 0).any((2, 3))
    own = np.zeros((2, 5, 4), bool)
    for image, region in np.argwhere(positive):
        own[image, region, columns[image, region]] = True
    np.testing.assert_array_equal(touched, own)
    assert mask_losses(*(each[1:] for each in arguments)).tolist() == [0.0]
