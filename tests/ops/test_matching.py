import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ops import box_oracle

from aa_flax import ops

match_anchors = jax.jit(ops.match_anchors, static_argnames=("foreground", "background", "forced"))
KINDS = ["best_anchor", "low_quality", None]


def scenes(rng, number, objects, anchors):
    """Return anchors and padded objects of images, on a grid where IoUs are often equal; some images have none."""
    boxes = np.stack([box_oracle.random_boxes(rng, objects) for _ in range(number)])
    valid = rng.random((number, objects)) < rng.choice([0, 0.3, 1], (number, 1))
    return box_oracle.random_boxes(rng, anchors), boxes, valid


@pytest.mark.few(5)
@pytest.mark.parametrize("forced", KINDS)
@pytest.mark.parametrize(("foreground", "background"), [(0.5, 0.5), (0.5, 0.4), (0.7, 0.3)])
def test_matching_is_that_of_a_loop(rng, foreground, background, forced):
    anchors, boxes, valid = scenes(rng, 20, 7, 45)
    options = dict(foreground=foreground, background=background, forced=forced)
    found = jax.jit(jax.vmap(lambda b, v: ops.match_anchors(anchors, b, v, **options)))(boxes, valid)
    expected = [
        box_oracle.matched(box_oracle.overlaps(b, anchors), v, foreground, background, forced)
        for b, v in zip(boxes, valid, strict=True)
    ]
    np.testing.assert_array_equal(found, expected)
    alone = [match_anchors(anchors, b, v, **options) for b, v in zip(boxes, valid, strict=True)]
    np.testing.assert_array_equal(found, alone)
    assert np.unique(expected).size > 5


def test_low_quality_is_torchvision(rng):
    torch = pytest.importorskip("torch")
    utils = pytest.importorskip("torchvision.models.detection._utils", exc_type=(ImportError, RuntimeError))
    matcher = utils.Matcher(0.5, 0.4, allow_low_quality_matches=True)
    anchors, boxes, _ = scenes(rng, 30, 7, 45)
    for one in boxes:
        iou = np.array(ops.box_iou(one, anchors))
        if (iou.max(1) > 0).all():  # an object that no anchor overlaps would seize all anchors there
            expected = matcher(torch.from_numpy(iou)).numpy()
            found = match_anchors(anchors, one, np.ones(7, bool), foreground=0.5, background=0.4, forced="low_quality")
            np.testing.assert_array_equal(found, expected)


ANCHORS = np.array([[0, 0, 10, 10], [0, 0, 10, 10], [20, 0, 30, 10], [40, 0, 50, 10]], np.float32)


def matched(boxes, valid=True, **options):
    """Return the matching of these objects, padded to eight with copies of the first anchor."""
    padded = np.concatenate([np.array(boxes, np.float32).reshape(-1, 4), np.tile(ANCHORS[:1], (8 - len(boxes), 1))])
    return match_anchors(ANCHORS, padded, (np.arange(8) < len(boxes)) & np.resize(valid, 8), **options).tolist()


def test_one_object_that_no_anchor_reaches_has_one():
    """Its IoU with the third anchor is 0.3."""
    assert matched([[20, 0, 23, 10]]) == [-1, -1, 0, -1]
    assert matched([[20, 0, 23, 10]], forced=None) == [-1, -1, -1, -1]


def test_of_equal_anchors():
    """The first is forced, or both; without force, above the threshold, both in each case."""
    low, high = [[0, 0, 10, 4]], [[0, 0, 10, 9]]
    assert matched(low) == [0, -1, -1, -1]
    assert matched(low, forced="low_quality") == [0, 0, -1, -1]
    assert matched(high) == matched(high, forced=None) == [0, 0, -1, -1]


@pytest.mark.parametrize("forced", KINDS)
def test_of_equal_objects_the_first_has_all_anchors(forced):
    assert matched([[0, 0, 10, 9], [0, 0, 10, 9], [20, 0, 30, 10]], forced=forced) == [0, 0, 2, -1]
    assert matched([[0, 0, 10, 9], [0, 1, 10, 10]], forced=forced) == [0, 0, -1, -1]


def test_the_first_object_gets_the_anchor_that_two_want():
    boxes = [[40, 0, 44, 10], [40, 0, 43, 10], [46, 0, 50, 10]]
    assert matched(boxes) == [-1, -1, -1, 0]
    assert matched(boxes[::-1]) == [-1, -1, -1, 0]
    assert matched(boxes, np.arange(8) > 0) == [-1, -1, -1, 1]


def test_a_forced_anchor_leaves_its_own_object():
    """The second object has no other anchor than one that overlaps the first more."""
    boxes = [[18, 0, 28, 10], [24, 0, 36, 10]]  # IoU with the third anchor 0.67 and 0.375
    assert matched(boxes) == [-1, -1, 0, -1]
    assert matched(boxes[::-1]) == [-1, -1, 0, -1]  # the lower index wins, although it overlaps less
    assert matched(boxes[::-1], forced="low_quality") == [-1, -1, 1, -1]


def test_thresholds_are_inclusive_above_and_exclusive_below():
    half = [[0, 0, 10, 5]]
    assert matched(half, forced=None) == [0, 0, -1, -1]
    assert matched(half, foreground=0.6, background=0.5, forced=None) == [-2, -2, -1, -1]
    assert matched(half, foreground=0.6, background=0.6, forced=None) == [-1, -1, -1, -1]


@pytest.mark.parametrize("forced", KINDS)
def test_images_without_objects_and_padding(rng, forced):
    nothing = [-1] * 4
    assert matched([], forced=forced) == nothing
    assert matched([[0, 0, 10, 10]] * 3, False, forced=forced) == nothing
    # Without area, outside, or not a number: none overlaps an anchor, so none is forced on one.
    assert matched([[0, 0, 0, 0], [5, 2, 5, 9], [90, 90, 95, 95], [0, 0, np.nan, 9]], forced=forced) == nothing
    assert match_anchors(ANCHORS, np.zeros((0, 4), np.float32), np.zeros(0, bool), forced=forced).tolist() == nothing
    anchors, boxes, valid = scenes(rng, 1, 7, 45)  # a program that another test has, and a padded one
    expected = match_anchors(anchors, boxes[0], ~valid[0], forced=forced)
    padded = np.concatenate([boxes[0], np.tile(anchors[:1], (100 - 7, 1))])
    valid = np.concatenate([~valid[0], np.zeros(100 - 7, bool)])
    np.testing.assert_array_equal(match_anchors(anchors, padded, valid, forced=forced), expected)
    assert forced is None or len(set(expected.tolist())) > 2


def test_memory_is_not_that_of_all_overlaps():
    """Of 100 objects and 50,000 anchors in 8 images, the IoUs alone would be 160 MB."""
    arguments = [((50_000, 4), "float32"), ((8, 100, 4), "float32"), ((8, 100), "bool")]
    shapes = [jax.ShapeDtypeStruct(*argument) for argument in arguments]
    program = jax.jit(jax.vmap(ops.match_anchors, (None, 0, 0))).lower(*shapes).compile()
    assert program.memory_analysis().temp_size_in_bytes < 40e6


def test_no_gradient_goes_through(rng):
    anchors, boxes, valid = scenes(rng, 1, 5, 9)

    def total(anchors, boxes):
        matched = ops.match_anchors(anchors, boxes, jnp.asarray(valid[0]))
        return (boxes[jnp.maximum(matched, 0)] - anchors).sum()

    gradients = jax.jit(jax.grad(total, argnums=(0, 1)))(jnp.asarray(anchors), jnp.asarray(boxes[0]))
    assert (gradients[0] == -1).all() and gradients[1].sum() == anchors.size


@pytest.mark.usefixtures("unchecked_shapes")
def test_what_is_refused():
    for foreground, background in [(0.4, 0.5), (1.5, 0.5), (0.5, -1)]:
        with pytest.raises(ValueError, match="0 <= background <= foreground <= 1 must hold"):
            ops.match_anchors(ANCHORS, ANCHORS, np.ones(4, bool), foreground=foreground, background=background)
    with pytest.raises(ValueError, match="forced must be one of None, 'best_anchor', 'low_quality', got 'all'"):
        ops.match_anchors(ANCHORS, ANCHORS, np.ones(4, bool), forced="all")
