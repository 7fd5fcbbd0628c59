import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ops import box_oracle

from aa_flax import ops
from aa_flax.ops import giou_loss, match_anchors, nms
from aa_flax.ops.boxes import _rounded

KINDS = ["iou", "giou", "ioa"]
# Compiled, because a program for each operation would take longer.
box_iou = jax.jit(ops.box_iou, static_argnames=("kind", "pixel_offset"))
encode_boxes = jax.jit(ops.encode_boxes, static_argnames="weights")
decode_boxes = jax.jit(ops.decode_boxes, static_argnames=("weights", "max_log_side"))
clip_boxes = jax.jit(ops.clip_boxes)
DEGENERATE = np.array(
    [
        [3, 4, 3, 9],  # no width
        [3, 4, 8, 4],  # no height
        [5, 5, 5, 5],  # a point
        [0, 0, 0, 0],
        [8, 9, 3, 4],  # its corners in the wrong order
        [2, 3, 9, 8],
        [2, 3, 9, 8],  # the same again
        [9, 3, 11, 8],  # which touches it
    ],
    np.float32,
)


@pytest.mark.parametrize(
    ("a", "b", "iou", "giou"),
    [
        ((0, 0, 2, 2), (1, 1, 3, 3), 1 / 7, 1 / 7 - 2 / 9),
        ((0, 0, 1, 1), (2, 2, 3, 3), 0, -7 / 9),
        ((0, 0, 4, 4), (1, 1, 3, 3), 0.25, 0.25),
        ((0, 0, 2, 2), (2, 0, 4, 2), 0, 0),
    ],
)
def test_known_overlaps(a, b, iou, giou):
    a, b = jnp.array([a], jnp.float32), jnp.array([b], jnp.float32)
    np.testing.assert_allclose(box_iou(a, b, kind="iou")[0, 0], iou, rtol=1e-6)
    np.testing.assert_allclose(box_iou(a, b, kind="giou")[0, 0], giou, rtol=1e-6, atol=1e-7)


def test_of_a_crowd_the_area_is_that_of_the_detection():
    detection, crowd = jnp.array([[0, 0, 4, 5.0]]), jnp.array([[2, 0, 100, 100.0]])
    assert box_iou(detection, crowd, kind="ioa")[0, 0] == 0.5


@pytest.mark.parametrize("offset", [0, 1])
@pytest.mark.parametrize("kind", KINDS)
def test_overlaps_are_those_of_a_loop(rng, kind, offset):
    a = np.concatenate([rng.uniform(-5, 30, (7, 4)), DEGENERATE]).astype(np.float32)
    b = np.concatenate([rng.uniform(-5, 30, (5, 4)), DEGENERATE]).astype(np.float32)
    found = box_iou(a, b, kind=kind, pixel_offset=offset)
    # Differences of sides round to 4e-6 of numbers up to 30.
    np.testing.assert_allclose(found, box_oracle.overlaps(a, b, kind, offset), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_degenerate_boxes_have_no_overlap_and_finite_gradients(kind):
    def total(a, b, weights):
        return (box_iou(a, b, kind=kind) * weights).sum()

    a = jnp.asarray(DEGENERATE)
    weights = jnp.arange(1.0, 65).reshape(8, 8)
    value, gradients = jax.jit(jax.value_and_grad(total, argnums=(0, 1)))(a, a, weights)
    assert np.isfinite(value) and all(np.isfinite(gradient).all() for gradient in gradients)
    if kind != "giou":
        np.testing.assert_array_equal(box_iou(a, a, kind=kind)[:5], np.zeros((5, 8)))
        np.testing.assert_array_equal(box_iou(a, a, kind=kind)[:, :5], np.zeros((8, 5)))


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_are_differences(rng, kind):
    a = np.array([[1, 2, 9, 7], [0, 0, 3, 3]], np.float64)
    b = np.array([[3, 1, 12, 5], [2, 3, 8, 6], [20, 20, 25, 24]], np.float64)
    weights = rng.normal(size=(2, 3))
    arguments = (jnp.asarray(array, jnp.float32) for array in (a, b, weights))
    gradient = jax.jit(jax.grad(lambda a, b, weights: (box_iou(a, b, kind=kind) * weights).sum()))(*arguments)
    expected = np.zeros_like(a)
    for place in np.ndindex(a.shape):
        high, low = a.copy(), a.copy()
        high[place] += 1e-6
        low[place] -= 1e-6
        difference = box_oracle.overlaps(high, b, kind) - box_oracle.overlaps(low, b, kind)
        expected[place] = (weights * difference).sum() / 2e-6
    np.testing.assert_allclose(gradient, expected, rtol=1e-4, atol=1e-5)


def test_a_box_with_nan_overlaps_nothing():
    a = jnp.array([[0, 0, 4, 4], [0, np.nan, 4, 4], [0, 0, np.inf, 4.0]])
    np.testing.assert_array_equal(box_iou(a, a, kind="iou")[1], np.zeros(3))
    np.testing.assert_array_equal(box_iou(a, a, kind="iou")[:, 1], np.zeros(3))


def test_quotients_are_rounded_where_division_is_not(rng):
    """A GPU's quotients may be a few units in the last place off: by these here, any is brought back."""
    b = rng.integers(1, 640**2, 20_000)
    a = rng.integers(0, b + 1)
    a[:5000], b[:5000] = b[:5000], 2 * b[:5000]  # halves
    a[5000:6000], b[5000:6000] = 3 * (b[5000:6000] % 1000), 10 * (b[5000:6000] % 1000) + (b[5000:6000] % 1000 == 0)
    exact = (a / b).astype(np.float32)  # float64 rounded again: no such quotient lies that near the middle of two
    a, b = a.astype(np.float32), b.astype(np.float32)
    rounded = jax.jit(_rounded)
    for units in (-2, -1, 0, 1, 2):
        near = np.maximum(exact + units * np.spacing(exact), 0).astype(np.float32)
        np.testing.assert_array_equal(rounded(near, a, b), exact)
    assert rounded(np.float32(0), np.float32(3), np.float32(np.inf)) == 0


def test_known_encoding():
    truth, anchor = jnp.array([[10, 20, 50, 40.0]]), jnp.array([[0, 0, 32, 32.0]])
    expected = np.array([[0.4375, 0.4375, math.log(1.25), math.log(0.625)]])
    np.testing.assert_allclose(encode_boxes(truth, anchor), expected, rtol=1e-6)
    np.testing.assert_allclose(encode_boxes(truth, anchor, (10, 10, 5, 5)), expected * [10, 10, 5, 5], rtol=1e-6)


def boxes_of(rng, *shape):
    low = rng.uniform(-20, 500, (*shape, 2))
    return np.concatenate([low, low + rng.uniform(1, 300, (*shape, 2))], -1).astype(np.float32)


@pytest.mark.parametrize("weights", [(1, 1, 1, 1), (10, 10, 5, 5), (2, 3, 5, 7)])
def test_decoding_inverts_encoding(rng, weights):
    boxes, anchors = boxes_of(rng, 3, 11), boxes_of(rng, 11)
    deltas = encode_boxes(boxes, anchors, weights)
    # Some 1e-7 of 800 pixels, a few operations.
    np.testing.assert_allclose(decode_boxes(deltas, anchors, weights), boxes, rtol=1e-4, atol=1e-3)
    alone = jnp.stack([encode_boxes(one, anchors, weights) for one in boxes])
    np.testing.assert_allclose(deltas, alone, rtol=1e-6, atol=1e-6)


def test_decoding_is_the_definition(rng):
    deltas, anchors = rng.normal(size=(2, 5, 3, 4)).astype(np.float32), boxes_of(rng, 5, 1)
    x1, y1, x2, y2 = np.moveaxis(anchors.astype(np.float64), -1, 0)
    dx, dy, dw, dh = np.moveaxis(deltas.astype(np.float64), -1, 0)
    x, y = (x1 + x2) / 2 + dx / 2 * (x2 - x1), (y1 + y2) / 2 + dy / 3 * (y2 - y1)
    w, h = np.exp(np.minimum(dw / 5, 0.1)) * (x2 - x1), np.exp(np.minimum(dh / 7, 0.1)) * (y2 - y1)
    expected = np.stack([x - w / 2, y - h / 2, x + w / 2, y + h / 2], -1)
    found = decode_boxes(deltas, anchors, (2, 3, 5, 7), max_log_side=0.1)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-3)


def test_the_bound_of_sides():
    anchor, deltas = jnp.array([[0, 0, 10, 10.0]]), jnp.array([[0, 0, 50, 500.0]])
    np.testing.assert_allclose(
        decode_boxes(deltas, anchor, max_log_side=math.log(1000 / 16)), [[-307.5, -307.5, 317.5, 317.5]], rtol=1e-5
    )
    assert not np.isfinite(decode_boxes(deltas, anchor)).all()


def test_encoding_degenerate_boxes_is_finite():
    boxes = jnp.asarray(DEGENERATE)
    function = jax.jit(jax.value_and_grad(lambda b, a: encode_boxes(b, a).sum(), argnums=(0, 1)))
    for anchor in ([0, 0, 32, 32], [5, 5, 5, 5], [7, 7, 3, 2]):
        value, gradients = function(boxes, jnp.asarray(np.broadcast_to(anchor, boxes.shape), jnp.float32))
        assert np.isfinite(value) and all(np.isfinite(gradient).all() for gradient in gradients)
    width = encode_boxes(boxes[:1], jnp.array([[0, 0, 32, 32.0]]))[0, 2]
    np.testing.assert_allclose(width, math.log(1e-8 / 32), rtol=1e-6)


def test_clipping(rng):
    boxes = boxes_of(rng, 2, 9) * 2 - 300
    sizes = np.array([[480, 640], [333, 500]])
    expected = np.stack([np.clip(b, 0, [w, h, w, h]) for b, (h, w) in zip(boxes, sizes, strict=True)])
    np.testing.assert_array_equal(clip_boxes(jnp.asarray(boxes), jnp.asarray(sizes)), expected)
    np.testing.assert_array_equal(clip_boxes(boxes[1], (333, 500)), expected[1])
    np.testing.assert_array_equal(clip_boxes(boxes, (333, 500))[1], expected[1])
    assert (expected[..., 2:] >= expected[..., :2]).all() and (expected == 0).any()


def test_sixteen_bits_are_computed_in_float32():
    """In bfloat16 the area of a box of 300 × 301 pixels would be off by hundreds."""
    boxes = np.array([[1, 2, 301, 303], [20, 10, 320, 311]], np.float32)
    half = jnp.asarray(boxes, jnp.bfloat16)
    exact = np.asarray(half, np.float32)
    for found, expected in (
        (box_iou(half, half), box_iou(exact, exact)),
        (encode_boxes(half, half[::-1]), encode_boxes(exact, exact[::-1])),
        (decode_boxes(half / 256, half), decode_boxes(exact / 256, exact)),
        (clip_boxes(half, (301, 300)), clip_boxes(exact, (301, 300))),
    ):
        assert found.dtype == jnp.float32
        np.testing.assert_array_equal(found, expected)


def test_strict_types_and_vmap(rng):
    boxes, anchors = jnp.asarray(boxes_of(rng, 2, 5)), jnp.asarray(boxes_of(rng, 3))
    with jax.numpy_dtype_promotion("strict"):
        for kind in KINDS:
            both = jax.jit(jax.vmap(lambda b, kind=kind: box_iou(b, anchors, kind=kind)))(boxes)
            np.testing.assert_array_equal(both, [box_iou(one, anchors, kind=kind) for one in boxes])
        encoded = jax.vmap(encode_boxes)(boxes, boxes[::-1])
        np.testing.assert_array_equal(encoded, encode_boxes(boxes, boxes[::-1]))
        decode_boxes(encoded, boxes, max_log_side=4.0)
        clip_boxes(boxes, (300, 200))


@pytest.mark.usefixtures("unchecked_shapes")
def test_what_is_refused():
    boxes = jnp.zeros((2, 4))
    with pytest.raises(ValueError, match="kind must be one of 'iou', 'giou', 'ioa', got 'diou'"):
        box_iou(boxes, boxes, kind="diou")
    for weights in [(1, 1, 1), (1, 1, 0, 1)]:
        with pytest.raises(ValueError, match="weights must be four numbers above 0"):
            encode_boxes(boxes, boxes, weights)
    wrong = (jnp.zeros((2, 5)), jnp.zeros((4, 2)), jnp.zeros(8), jnp.zeros(()))
    for array in wrong:
        told = re.escape(f"must have the shape [n, 4], got {array.shape}")
        for name, given in (("a", (array, boxes)), ("b", (boxes, array))):
            with pytest.raises(ValueError, match=f"{name} {told}"):
                box_iou(*given)
        told = re.escape(f"must have the shape [..., 4], four numbers along the last axis, got {array.shape}")
        for name, function in (("boxes", encode_boxes), ("deltas", decode_boxes), ("boxes", giou_loss)):
            with pytest.raises(ValueError, match=f"{name} {told}"):
                function(array, boxes)
        for function, name in ((encode_boxes, "anchors"), (decode_boxes, "anchors"), (giou_loss, "targets")):
            with pytest.raises(ValueError, match=f"{name} {told}"):
                function(boxes, array)
        with pytest.raises(ValueError, match=f"boxes {told}"):
            clip_boxes(array, (3, 4))
        with pytest.raises(ValueError, match=r"boxes must have the shape \[n, 4\]"):
            nms(array, jnp.zeros(2), iou_threshold=0.5, max_outputs=2)
        with pytest.raises(ValueError, match=r"anchors must have the shape \[n, 4\]"):
            match_anchors(array, boxes, jnp.ones(2, bool))
