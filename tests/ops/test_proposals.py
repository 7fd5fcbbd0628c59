import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from ops import box_oracle

from aa_flax import ops

LEVELS = (40, 17, 6)
MOST_LOG_SIDE = math.log(1000 / 16)
proposals = jax.jit(
    ops.top_proposals,
    static_argnames=("level_anchors", "per_level", "most", "iou_threshold", "least_side", "max_log_side"),
)


def outputs(rng, batch=3):
    """Return logits with equal ones and NaNs, deltas with some beyond the bound, anchors over the edges of images."""
    number = sum(LEVELS)
    logits = (rng.integers(-20, 20, (batch, number)) / 4).astype(np.float32)
    logits[rng.random(logits.shape) < 0.05] = np.nan
    logits[0, :40] += 30  # whose sigmoids are all 1
    deltas = rng.normal(0, 0.4, (batch, number, 4))
    deltas[rng.random(deltas.shape) < 0.03] = 5
    low = rng.uniform(-10, 60, (number, 2))
    anchors = np.concatenate([low, low + rng.uniform(6, 30, (number, 2))], 1)
    return logits, deltas.astype(np.float32), anchors.astype(np.float32)


def decoded(deltas, anchor, size):
    width, height = anchor[2] - anchor[0], anchor[3] - anchor[1]
    x, y = anchor[0] + width / 2 + deltas[0] * width, anchor[1] + height / 2 + deltas[1] * height
    wide, high = (side * math.exp(min(d, MOST_LOG_SIDE)) for side, d in ((width, deltas[2]), (height, deltas[3])))
    box = [x - wide / 2, y - high / 2, x + wide / 2, y + high / 2]
    return [min(max(number, 0.0), float(size[1 - i % 2])) for i, number in enumerate(box)]


def expected(logits, deltas, anchors, size, per_level, most, threshold, least):
    """Return the boxes and logits of one image, level by level: sorted, decoded, suppressed; then the best of all."""
    deltas, anchors = deltas.astype(np.float64), anchors.astype(np.float64)
    left, first = [], 0
    for number in LEVELS:
        which = [i for i in range(first, first + number) if not np.isnan(logits[i])]
        which = sorted(which, key=lambda i: (-logits[i], i))[:per_level]
        boxes = [decoded(deltas[i], anchors[i], size) for i in which]
        large = [min(box[2] - box[0], box[3] - box[1]) >= least for box in boxes]
        if which:
            iou = box_oracle.pairs(np.array(boxes))
            assert np.abs(iou - threshold).min() > 1e-5  # else float32 and float64 could differ
            kept = box_oracle.suppressed(iou, logits[which], threshold, number, valid=large)
            left += [(-logits[which[k]], which[k], boxes[k]) for k in kept]
        first += number
    left.sort(key=lambda each: each[:2])
    return np.array([box for _, _, box in left[:most]]).reshape(-1, 4), [-negative for negative, _, _ in left[:most]]


@pytest.mark.few
@pytest.mark.parametrize(
    ("per_level", "most", "threshold", "least"),
    [(12, 20, 0.5, 8), (100, 80, 0.7, 1e-3), (5, 7, 0.3, 0), (12, 9, 0.95, 14)],
)
def test_level_by_level(rng, per_level, most, threshold, least):
    """There are fewer than asked for in some cases, and more in others; some boxes lie outside or are too small."""
    logits, deltas, anchors = outputs(rng)
    sizes = np.array([[70, 50], [64, 64], [33, 70]], np.float32)
    options = dict(per_level=per_level, most=most, iou_threshold=threshold, least_side=least)
    found = proposals(logits, deltas, anchors, level_anchors=LEVELS, sizes=sizes, **options)
    assert found.boxes.shape == (3, most, 4) and found.boxes.dtype == jnp.float32
    for image in range(3):
        given = logits[image], deltas[image], anchors, sizes[image]
        boxes, scores = expected(*given, per_level, most, threshold, least)
        count = len(boxes)
        np.testing.assert_array_equal(found.valid[image], np.arange(most) < count)
        np.testing.assert_array_equal(found.logits[image, :count], scores)
        np.testing.assert_allclose(found.boxes[image, :count], boxes, rtol=1e-5, atol=1e-4)
        assert (found.boxes[image, count:] == 0).all() and (found.logits[image, count:] == -np.inf).all()
    assert found.valid.any(1).all()


def test_levels_do_not_suppress_each_other():
    """Of two equal boxes of one level one is left, of two levels both: the lower level first."""
    anchors = np.tile(np.array([[2, 2, 9, 9]], np.float32), (4, 1))
    logits, nothing = np.array([[1, 3, 3, 2]], np.float32), np.zeros((1, 4, 4), np.float32)
    options = dict(sizes=np.array([[16, 16]]), per_level=4, most=4)
    found = proposals(logits, nothing, anchors, level_anchors=(2, 2), **options)
    assert found.logits.tolist() == [[3, 3, -np.inf, -np.inf]] and found.valid.tolist() == [[True, True, False, False]]
    assert proposals(logits, nothing, anchors, level_anchors=(4,), **options).valid.sum() == 1


def test_numbers_of_a_network_that_diverged():
    """Boxes that are no numbers are not proposed, and one that is infinite ends at the image's edges."""
    anchors = np.array([[2, 2, 9, 9], [5, 5, 9, 12], [1, 1, 4, 4]], np.float32)
    deltas = np.zeros((1, 3, 4), np.float32)
    deltas[0, 0, 1], deltas[0, 1, 2:] = np.nan, np.inf
    options = dict(level_anchors=(3,), sizes=np.array([[16, 20]]), per_level=3, most=3)
    found = proposals(np.zeros((1, 3), np.float32), deltas, anchors, max_log_side=MOST_LOG_SIDE, **options)
    assert found.valid.tolist() == [[True, True, False]]
    np.testing.assert_allclose(found.boxes[0], [[0, 0, 20, 16], [1, 1, 4, 4], [0, 0, 0, 0]])


def test_no_gradient_and_strict_types(rng):
    logits, deltas, anchors = outputs(rng)
    half = jnp.asarray(np.nan_to_num(logits), jnp.bfloat16), jnp.asarray(deltas, jnp.bfloat16)
    options = dict(level_anchors=LEVELS, per_level=12, most=9)

    def total(half):
        found = ops.top_proposals(*half, anchors, sizes=jnp.full((3, 2), 64, jnp.int32), **options)
        return found.boxes.sum() + jnp.where(found.valid, found.logits, 0).sum()

    with jax.numpy_dtype_promotion("strict"):
        gradients = jax.jit(jax.grad(total))(half)
    assert all((each == 0).all() for each in gradients)


@pytest.mark.few(0)
@pytest.mark.parametrize("kind", [AxisType.Auto, AxisType.Explicit])
def test_each_device_proposes_for_its_own_images(rng, kind):
    logits, deltas, anchors = outputs(rng, 4)
    options = dict(level_anchors=LEVELS, sizes=np.full((4, 2), 60.0, np.float32), per_level=12, most=20)
    alone = proposals(logits, deltas, anchors, **options)
    mesh = jax.make_mesh((2, 2), ("data", "model"), axis_types=(kind, AxisType.Auto), devices=jax.devices()[:4])
    with jax.set_mesh(mesh):
        placed = jax.device_put((logits, deltas), NamedSharding(mesh, PartitionSpec("data")))
        compiled = jax.jit(functools.partial(ops.top_proposals, anchors=anchors, **options)).lower(*placed).compile()
        found = compiled(*placed)
    text = compiled.as_text()
    assert not [word for word in ("all-gather", "all-reduce", "collective-permute", "all-to-all") if word in text]
    for one, other in zip(found, alone, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.thorough
@pytest.mark.usefixtures("unchecked_shapes")
def test_a_batch_may_be_a_symbol(rng):
    logits, deltas, anchors = outputs(rng)
    scope = jax.export.SymbolicScope()
    shapes = (jax.export.symbolic_shape(shape, scope=scope) for shape in ("b, 63", "b, 63, 4", "b, 2"))
    given = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
    options = dict(level_anchors=LEVELS, per_level=12, most=20)
    run = jax.jit(
        lambda logits, deltas, sizes: tuple(ops.top_proposals(logits, deltas, anchors, sizes=sizes, **options))
    )
    sizes = np.full((3, 2), 60, np.float32)
    found = jax.export.export(run)(*given).call(logits, deltas, sizes)
    for one, other in zip(found, proposals(logits, deltas, anchors, sizes=sizes, **options), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.usefixtures("unchecked_shapes")
def test_numbers_that_do_not_go_together():
    given = dict(
        objectness=np.zeros((2, 5)), deltas=np.zeros((2, 5, 4)), anchors=np.zeros((5, 4)), sizes=np.ones((2, 2))
    )
    for message, changes in {
        r"level_anchors must add up to 5 anchors, got \(3, 3\)": dict(level_anchors=(3, 3)),
        r"the shapes \[b, 5\] and \[b, 5, 4\], got \(2, 4\) and \(2, 5, 4\)": dict(objectness=np.zeros((2, 4))),
        r"got \(2, 5\) and \(2, 6, 4\)": dict(deltas=np.zeros((2, 6, 4))),
        r"sizes must have the shape \[2, 2\], got \(2,\)": dict(sizes=np.ones(2)),
        "per_level must be a whole number of at least 1, got 0": dict(per_level=0),
        "most must be a whole number of at least 1, got 0": dict(most=0),
        r"iou_threshold must lie in \[0, 1\], got 7": dict(iou_threshold=7),
        "least_side must be at least 0, got -1": dict(least_side=-1),
    }.items():
        with pytest.raises(ValueError, match=message):
            ops.top_proposals(**(given | dict(level_anchors=(3, 2), per_level=3, most=3) | changes))
