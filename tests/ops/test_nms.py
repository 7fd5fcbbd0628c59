import functools
import importlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ops import box_oracle

from aa_flax import ops

MODULE = importlib.import_module("aa_flax.ops.nms")  # aa_flax.ops.nms is the function
nms = jax.jit(ops.nms, static_argnames=("max_outputs", "pixel_offset"))
ABCD = np.array([[0, 0, 10, 10], [0, 0, 10, 5], [1, 1, 11, 11], [20, 20, 30, 30]], np.float32)
SCORES = np.array([0.9, 0.8, 0.7, 0.6], np.float32)


def kept(boxes, scores, threshold=0.5, most=8, classes=None, valid=True, **options):
    """Return the kept indices, after a look at the unused ones; padded to 90 boxes, so that one program serves all."""
    rows = np.arange(90)
    padded = [np.resize(np.asarray(array, np.float32), (90, *np.shape(array)[1:])) for array in (boxes, scores)]
    options["classes"] = np.resize(0 if classes is None else classes, 90)
    options["valid"] = (rows < len(boxes)) & np.resize(valid, 90)
    index, there = nms(*padded, iou_threshold=threshold, max_outputs=most, **options)
    assert index.dtype == jnp.int32 and (np.diff(np.asarray(there, int)) <= 0).all()
    assert (np.asarray(index)[~np.asarray(there)] == 0).all()
    return np.asarray(index)[np.asarray(there)].tolist()


def test_known_answers():
    """IoU of the first two is exactly a half."""
    assert kept(ABCD, SCORES) == [0, 1, 3]
    assert kept(ABCD, SCORES, pixel_offset=1) == [0, 3]
    assert kept(ABCD, SCORES, 0.4) == [0, 3]
    assert kept(ABCD, SCORES, 0.4, classes=np.arange(4)) == [0, 1, 2, 3]
    assert kept(ABCD, SCORES, most=2) == [0, 1]
    index, valid = nms(ABCD, SCORES, iou_threshold=0.5, max_outputs=7)  # more than there are
    assert index.tolist() == [0, 1, 3, 0, 0, 0, 0] and valid.tolist() == [True] * 3 + [False] * 4


def test_what_fell_makes_nothing_fall():
    """The first makes the second fall, which alone overlaps the third."""
    chain = [[0, 0, 10, 10], [4, 0, 14, 10], [8, 0, 18, 10]]
    assert kept(chain, [0.9, 0.8, 0.7], 0.3) == [0, 2]
    assert kept(chain, [0.8, 0.9, 0.7], 0.3) == [1]
    long = np.stack([np.arange(90) * 4, np.zeros(90), np.arange(90) * 4 + 10, np.full(90, 10)], 1)
    assert kept(long, -np.arange(90), 0.3, 90) == [*range(0, 90, 2)]  # a round of the iteration decides one


def test_equal_scores_and_boxes():
    assert kept([[0, 0, 5, 5]] * 6, [0.5] * 6) == [0]
    assert kept([[10 * i, 0, 10 * i + 5, 5] for i in range(6)], [0.5] * 6) == [0, 1, 2, 3, 4, 5]
    assert kept([[0, 0, 5, 5]] * 2, [-0.0, 0.0]) == [0] and kept([[0, 0, 5, 5]] * 2, [0.0, -0.0]) == [0]


def test_scores_that_are_no_numbers():
    boxes = np.stack([ABCD[0]] * 4)
    assert kept(boxes, [np.nan, 0.1, np.nan, 0.3]) == [3]
    assert kept(boxes, [np.nan] * 4) == []
    assert kept(ABCD, [-np.inf, -1e5, np.inf, np.nan]) == [2, 1]
    assert kept(ABCD, [-np.inf, np.nan, -3, -4], 0.9) == [2, 3, 0]


def test_rows_that_are_not_valid():
    """They are not kept and make nothing fall, whatever stands in them; a box at 0, 0, 0, 0 is one like others."""
    assert kept(ABCD, SCORES, valid=np.array([False, True, True, True])) == [1, 2, 3]
    assert kept(ABCD, SCORES, valid=np.zeros(4, bool)) == []
    boxes = np.concatenate([np.full((1, 4), np.nan), ABCD[:1], np.zeros((2, 4))])
    assert kept(boxes, [np.nan, 1, 2, 3], valid=np.array([False, True, True, True])) == [3, 2, 1]


def random_sets(rng, number, size):
    boxes = np.stack([box_oracle.random_boxes(rng, size) for _ in range(number)])
    scores = (rng.integers(-3, 4, (number, size)) / 4).astype(np.float32)
    scores[rng.random((number, size)) < 0.05] = np.nan
    return boxes, scores, rng.integers(0, 2, (number, size)), rng.random((number, size)) < 0.9


@pytest.mark.few
@pytest.mark.parametrize(("threshold", "most", "offset"), [(0.5, 25, 0), (0.3, 37, 1), (1 / 3, 5, 0)])
def test_a_thousand_random_sets(rng, monkeypatch, threshold, most, offset):
    """340 sets for each of three cases, on a grid: scores, boxes and IoUs often are equal, as with the threshold."""
    monkeypatch.setattr(MODULE, "_TILE", 8)  # five tiles
    boxes, scores, classes, valid = random_sets(rng, 340, 37)
    options = dict(iou_threshold=threshold, max_outputs=most, pixel_offset=offset)
    function = jax.vmap(lambda b, s, c, v: ops.nms(b, s, classes=c, valid=v, **options))
    index, there = (np.asarray(array) for array in jax.jit(function)(boxes, scores, classes, valid))
    assert (index[~there] == 0).all()
    lengths = set()
    for number in range(len(boxes)):
        iou = box_oracle.pairs(boxes[number], offset)
        expected = box_oracle.suppressed(iou, scores[number], threshold, most, classes[number], valid[number])
        assert index[number][there[number]].tolist() == expected
        lengths.add(len(expected))
    assert len(lengths) > 1 or most == 5


def test_many_candidates_cross_tiles(rng):
    """700 boxes are three tiles; with one class and without."""
    low = rng.uniform(0, 90, (700, 2))
    boxes = np.concatenate([low, low + rng.uniform(5, 40, (700, 2))], 1).astype(np.float32)
    scores, classes = rng.integers(0, 50, 700) / 50, rng.integers(0, 3, 700)
    iou = box_oracle.pairs(boxes)
    assert np.abs(iou - 0.4).min() > 1e-7  # else float32 and float64 could differ
    for given in (classes, np.zeros_like(classes)):
        index, valid = nms(boxes, scores.astype(np.float32), iou_threshold=0.4, max_outputs=500, classes=given)
        assert index[valid].tolist() == box_oracle.suppressed(iou, scores, 0.4, 500, given)


def test_compilation_and_vmap_change_nothing(rng):
    boxes, scores, classes, valid = random_sets(rng, 3, 20)
    function = functools.partial(ops.nms, iou_threshold=0.5, max_outputs=9)
    together = jax.jit(jax.vmap(lambda b, s, c, v: function(b, s, classes=c, valid=v)))(boxes, scores, classes, valid)
    for number in range(3):
        alone = function(boxes[number], scores[number], classes=classes[number], valid=valid[number])
        np.testing.assert_array_equal([array[number] for array in together], alone)


def test_sixteen_bits_strict_types_and_nothing(rng):
    with jax.numpy_dtype_promotion("strict"):
        half = jnp.asarray(ABCD, jnp.bfloat16), jnp.asarray(SCORES, jnp.bfloat16)
        index, valid = nms(*half, iou_threshold=0.5, max_outputs=3, classes=jnp.zeros(4, jnp.int8))
        assert index.tolist() == [0, 1, 3] and valid.all()
        index, valid = nms(np.zeros((0, 4), np.float32), np.zeros(0, np.float32), iou_threshold=0.5, max_outputs=3)
    assert index.tolist() == [0, 0, 0] and not valid.any()


def test_what_is_kept_has_gradients():
    def total(boxes, scores):
        index, valid = ops.nms(boxes, scores, iou_threshold=0.5, max_outputs=4)
        return (scores[index] * valid * boxes[index].sum(-1)).sum()

    gradients = jax.jit(jax.grad(total, argnums=(0, 1)))(jnp.asarray(ABCD), jnp.asarray(SCORES))
    np.testing.assert_allclose(gradients[0], np.outer([0.9, 0.8, 0, 0.6], np.ones(4)), rtol=1e-6)
    np.testing.assert_allclose(gradients[1], [20, 15, 0, 100], rtol=1e-6)


def test_memory_is_not_that_of_all_overlaps():
    """Of 5,000 candidates in 8 images, the IoUs alone would be 800 MB."""
    shapes = [jax.ShapeDtypeStruct((8, 5000, *more), "float32") for more in ((4,), ())]
    function = jax.vmap(functools.partial(ops.nms, iou_threshold=0.5, max_outputs=100))
    assert jax.jit(function).lower(*shapes).compile().memory_analysis().temp_size_in_bytes < 40e6


def test_order_of_torchvision(rng):
    torch = pytest.importorskip("torch")
    operators = pytest.importorskip("torchvision.ops", exc_type=(ImportError, RuntimeError))
    low = rng.uniform(0, 90, (200, 2))
    boxes = np.concatenate([low, low + rng.uniform(5, 40, (200, 2))], 1).astype(np.float32)
    scores, classes = rng.permutation(200).astype(np.float32), rng.integers(0, 3, 200)
    arguments = (torch.from_numpy(array) for array in (boxes, scores, classes))
    try:
        expected = operators.batched_nms(*arguments, 0.5)
    except (NotImplementedError, RuntimeError):
        pytest.skip("torchvision's compiled operators do not run here")
    index, valid = nms(boxes, scores, iou_threshold=0.5, max_outputs=200, classes=classes)
    assert index[valid].tolist() == expected.tolist()


@pytest.mark.usefixtures("unchecked_shapes")
@pytest.mark.parametrize("threshold", [-0.1, 1.5, float("nan"), np.float32(5)])
def test_thresholds_that_no_overlap_has(threshold):
    with pytest.raises(ValueError, match=r"iou_threshold must lie in \[0, 1\], got"):
        ops.nms(ABCD, SCORES, iou_threshold=threshold, max_outputs=2)


@pytest.mark.usefixtures("unchecked_shapes")
def test_no_place_for_outputs():
    for most in (0, 2.5):
        with pytest.raises(ValueError, match=f"max_outputs must be a whole number, at least 1, got {most}"):
            ops.nms(ABCD, SCORES, iou_threshold=0.5, max_outputs=most)


@pytest.mark.usefixtures("unchecked_shapes")
def test_numbers_that_do_not_go_with_the_boxes_are_named():
    boxes = np.array([[0, 0, 4, 4], [1, 1, 5, 5.0]])
    for name, given in (("scores", np.ones(3)), ("classes", np.zeros(1, int)), ("valid", np.ones((2, 1), bool))):
        arguments = {"scores": np.ones(2), name: given}
        with pytest.raises(ValueError, match=f"{name} must be a number for each of 2 boxes"):
            nms(boxes, **arguments, iou_threshold=0.5, max_outputs=2)
