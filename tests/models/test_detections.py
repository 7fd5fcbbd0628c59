"""Tests of what makes detections of a detector's outputs, against loops over NumPy's float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from aa_flax.models import create_model

SMALL = dict(width=4, blocks=(1, 1, 1, 1), fpn_width=2, head_depth=0, head_width=2, num_classes=3)


def detector(**options):
    return nnx.eval_shape(lambda: create_model("retinanet_resnet18", **{**SMALL, **options}, rngs=nnx.Rngs(0)))


def iou(a, b, offset):
    sides = [max(min(a[i + 2], b[i + 2]) - max(a[i], b[i]) + offset, 0.0) for i in (0, 1)]
    shared = sides[0] * sides[1]
    areas = sum((box[2] - box[0] + offset) * (box[3] - box[1] + offset) for box in (a, b))
    return shared / (areas - shared) if areas > shared else 0.0


def decoded(delta, anchor, most):
    width, height = anchor[2] - anchor[0], anchor[3] - anchor[1]
    x, y = anchor[0] + width / 2 + delta[0] * width, anchor[1] + height / 2 + delta[1] * height
    width, height = width * np.exp(min(delta[2], most)), height * np.exp(min(delta[3], most))
    return np.array([x - width / 2, y - height / 2, x + width / 2, y + height / 2])


def found_by_loops(logits, deltas, anchors, levels, size, rules):
    """Return (logit, class, box) of the detections of one image, best first.

    `rules` are what the two published detectors differ in, written out here and not read from the network.
    """
    pairs = [(logits[a, c], a, c) for a in range(len(anchors)) for c in range(logits.shape[1])]
    pairs = [pair for pair in pairs if 1 / (1 + np.exp(-pair[0])) > rules["score"]]
    ends = np.cumsum(levels) if rules["per_level"] else [len(anchors)]
    candidates = []
    for start, end in zip([0, *ends[:-1]], ends, strict=True):
        of_level = sorted((p for p in pairs if start <= p[1] < end), key=lambda p: -p[0])
        candidates += of_level[: rules["candidates"]]
    boxes = []
    for logit, a, c in sorted(candidates, key=lambda p: -p[0]):
        box = decoded(deltas[a], anchors[a], rules["most"])
        if rules["clip"]:
            box = np.clip(box, 0, [size[1], size[0], size[1], size[0]])
        boxes.append((logit, c, box))
    kept = []
    for logit, c, box in boxes:
        if all(c != other or iou(box, before, rules["offset"]) <= rules["iou"] for _, other, before in kept):
            kept.append((logit, c, box))
    return kept[: rules["keep"]]


RULES = {
    "tpu": dict(score=-1.0, per_level=False, candidates=60, most=np.inf, clip=False, offset=1, iou=0.5, keep=20),
    "torchvision": dict(
        score=0.05, per_level=True, candidates=25, most=np.log(1000 / 16), clip=True, offset=0, iou=0.5, keep=40
    ),
}
"""The two columns, with fewer candidates and detections, so that each bound binds."""


@pytest.mark.parametrize("flavor", RULES)
def test_detections_of_random_outputs(rng, flavor):
    rules = RULES[flavor]
    model = detector(flavor=flavor, candidates=rules["candidates"], max_detections=rules["keep"])
    height, width = 64, 96
    anchors = model.anchors(height, width)
    places = [8 * 12, 4 * 6, 2 * 3, 1 * 2, 1 * 1]
    a = model.anchors_per_place
    assert a == {"tpu": 6, "torchvision": 9}[flavor] and anchors.shape == (sum(places) * a, 4)
    logits = rng.normal(-3, 2, (2, len(anchors), 3)).astype(np.float32)
    logits[1] -= 4  # few are above a threshold in the second image
    deltas = rng.normal(0, 0.4, (2, len(anchors), 4)).astype(np.float32)
    deltas[0, ::7, 2] = 5  # beyond torchvision's bound of 4.135
    sizes = np.array([[64, 96], [50, 61]])
    found = model.detections({"classes": jnp.asarray(logits), "boxes": jnp.asarray(deltas)}, height, width, sizes=sizes)
    assert found.masks is None and found.classes.dtype == jnp.int32 and found.boxes.dtype == jnp.float32
    assert found.boxes.shape == (2, rules["keep"], 4)
    for i in range(2):
        wide = (x.astype(np.float64) for x in (logits[i], deltas[i], anchors))
        expected = found_by_loops(*wide, [n * a for n in places], sizes[i], rules)
        number = int(found.valid[i].sum())
        assert number == len(expected) > 2 and bool(found.valid[i, :number].all())
        scores, classes, boxes = zip(*expected, strict=True)
        np.testing.assert_allclose(found.scores[i, :number], 1 / (1 + np.exp(-np.array(scores))), rtol=1e-5)
        np.testing.assert_array_equal(found.classes[i, :number], classes)
        np.testing.assert_allclose(found.boxes[i, :number], boxes, rtol=1e-5, atol=1e-3)
        assert (found.classes[i, number:] == -1).all() and not found.boxes[i, number:].any()
        assert (found.scores[i, number:] == -jnp.inf).all()
    assert int(found.valid[1].sum()) < rules["keep"] or flavor == "tpu"


def test_settings_of_one_call(rng):
    """A threshold, an overlap and a number of places hold for one call, and change what is found as they should."""
    model = detector(candidates=50)
    anchors = model.anchors(32, 64)
    logits, deltas = rng.normal(size=(1, len(anchors), 3)), 0.1 * rng.normal(size=(1, len(anchors), 4))
    outputs = {"classes": jnp.asarray(logits, jnp.float32), "boxes": jnp.asarray(deltas, jnp.float32)}
    usual = model.detections(outputs, 32, 64)
    assert usual.boxes.shape == (1, 100, 4) and 10 < int(usual.valid.sum()) < 50
    threshold = float(usual.scores[0, 9])
    changed = model.detections(outputs, 32, 64, score_threshold=threshold, max_detections=60, iou_threshold=1.0)
    scores = np.sort(1 / (1 + np.exp(-logits.ravel())))[::-1]
    above = int((scores > threshold + 1e-7).sum())  # scores must exceed it
    assert 9 < above < 50 and int(changed.valid.sum()) == above and changed.boxes.shape == (1, 60, 4)
    np.testing.assert_allclose(changed.scores[0, :above], scores[:above], rtol=1e-5)  # none was suppressed


@pytest.mark.parametrize(("flavor", "kept"), [("tpu", [0, 3]), ("torchvision", [0, 1, 3])])
def test_an_overlap_of_one_half_exactly(flavor, kept):
    """Half of a box inside it: 0.5 is not above the threshold, which leaves room for rounding, and 66 / 121 is.

    The second is their overlap where widths count one pixel more.
    """
    boxes = np.array([[0, 0, 10, 10], [0, 0, 10, 5], [1, 1, 11, 11], [20, 20, 30, 30]], np.float64)
    model = detector(flavor=flavor, candidates=50, max_detections=9)
    anchors = model.anchors(32, 64)[:4].astype(np.float64)
    sides, old = boxes[:, 2:] - boxes[:, :2], anchors[:, 2:] - anchors[:, :2]
    moved = (boxes[:, :2] + sides / 2 - anchors[:, :2] - old / 2) / old
    count = len(model.anchors(32, 64))
    deltas, logits = np.zeros((1, count, 4), np.float32), np.full((1, count, 3), -30, np.float32)
    deltas[0, :4] = np.concatenate([moved, np.log(sides / old)], -1)
    logits[0, :4, 1] = [4, 3, 2, 1]
    found = model.detections(
        {"classes": jnp.asarray(logits), "boxes": jnp.asarray(deltas)},
        32,
        64,
        score_threshold=0.1,
        iou_threshold=0.50001,
    )
    assert found.valid[0].tolist() == [i < len(kept) for i in range(9)]
    np.testing.assert_allclose(found.boxes[0, : len(kept)], boxes[kept], atol=1e-4)


def test_saturated_scores_are_ordered_by_their_logits():
    """Sigmoid gives 1 for both logits."""
    model = detector(candidates=50)
    anchors = model.anchors(32, 64)
    logits = np.full((1, len(anchors), 3), -20.0, np.float32)
    logits[0, 3, 1], logits[0, 100, 2] = 30.0, 40.0
    outputs = {"classes": jnp.asarray(logits), "boxes": jnp.zeros((1, len(anchors), 4))}
    found = model.detections(outputs, 32, 64)
    assert found.classes[0, :2].tolist() == [2, 1] and found.scores[0, :2].tolist() == [1.0, 1.0]
    np.testing.assert_allclose(found.boxes[0, 0], anchors[100], rtol=1e-5, atol=1e-4)


@pytest.mark.usefixtures("unchecked_shapes")
def test_what_does_not_fit():
    model = detector()
    count = len(model.anchors(32, 64))
    outputs = {"classes": jnp.zeros((2, count, 3)), "boxes": jnp.zeros((2, count, 4))}
    with pytest.raises(ValueError, match=rf"outputs are of {count} anchors, and images of 64×64 have"):
        model.detections(outputs, 64, 64)
    with pytest.raises(ValueError, match=r"sizes must be height and width of each of 2 images, got shape \(1, 2\)"):
        model.detections(outputs, 32, 64, sizes=[(32, 64)])
    for name in ("score_threshold", "iou_threshold"):
        with pytest.raises(ValueError, match=rf"{name} must lie in \[0, 1\], got 5"):
            model.detections(outputs, 32, 64, **{name: 5})
    for most, told in ((0, "at least 1, got 0"), (2.5, "a whole number, got 2.5")):
        with pytest.raises(ValueError, match=f"max_detections must be {told}"):
            model.detections(outputs, 32, 64, max_detections=most)


@pytest.mark.few(0)
@pytest.mark.parametrize("kind", [AxisType.Auto, AxisType.Explicit])
def test_each_device_finds_what_is_in_its_own_images(rng, kind):
    """On a mesh nothing travels between devices, and the detections are those of one device."""
    model, size = detector(), (32, 32)
    count = len(model.anchors(*size))
    arrays = {"classes": rng.normal(size=(4, count, 3)), "boxes": rng.normal(0, 0.2, (4, count, 4))}
    outputs = {name: jnp.asarray(values, jnp.float32) for name, values in arrays.items()}
    alone = model.detections(outputs, *size)
    mesh = jax.make_mesh((2, 2), ("data", "model"), axis_types=(kind, AxisType.Auto), devices=jax.devices()[:4])
    split = NamedSharding(mesh, PartitionSpec("data"))
    with jax.set_mesh(mesh):
        program = jax.jit(lambda outputs, sizes: model.detections(outputs, *size, sizes=sizes))
        placed = jax.device_put((outputs, jnp.full((4, 2), 32.0)), split)
        compiled = program.lower(*placed).compile()
        found = compiled(*placed)
        odd = program(jax.tree.map(lambda x: x[:3], outputs), jnp.full((3, 2), 32.0))  # the mesh does not divide it
    text = compiled.as_text()
    assert not [word for word in ("all-gather", "all-reduce", "collective-permute", "all-to-all") if word in text]
    for name in ("boxes", "scores", "classes", "valid"):
        np.testing.assert_array_equal(getattr(found, name), getattr(alone, name))
        np.testing.assert_array_equal(getattr(odd, name), getattr(alone, name)[:3])
