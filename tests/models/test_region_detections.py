"""Tests of what makes detections of a box head's outputs, against loops over NumPy's float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from aa_flax.models.rcnn_options import FLAVORS, RCNNOptions
from aa_flax.models.region_detections import log_probabilities, region_detections


def iou(a, b):
    sides = [max(min(a[i + 2], b[i + 2]) - max(a[i], b[i]), 0.0) for i in (0, 1)]
    shared = sides[0] * sides[1]
    areas = sum((box[2] - box[0]) * (box[3] - box[1]) for box in (a, b))
    return shared / (areas - shared) if areas > shared else 0.0


def decoded(delta, box):
    """Return the box that the coder with weights 10, 10, 5, 5 and the bound log(1000 / 16) moves another to."""
    width, height = box[2] - box[0], box[3] - box[1]
    x, y = box[0] + width / 2 + delta[0] / 10 * width, box[1] + height / 2 + delta[1] / 10 * height
    width, height = (
        side * np.exp(min(d / 5, np.log(62.5))) for side, d in zip((width, height), delta[2:], strict=True)
    )
    return np.array([x - width / 2, y - height / 2, x + width / 2, y + height / 2])


def found_by_loops(logits, deltas, proposals, valid, size, background, least_side, most):
    """Return (score, class, box) of the detections of one image, best first."""
    scores = np.exp(logits - logits.max(1, keepdims=True))
    scores /= scores.sum(1, keepdims=True)
    found = []
    for i in np.flatnonzero(valid):
        for c in range(logits.shape[1]):
            box = np.clip(decoded(deltas[i, c], proposals[i]), 0, [size[1], size[0]] * 2) if c != background else None
            if box is not None and scores[i, c] > 0.05 and (box[2:] - box[:2] >= least_side).all():
                found.append((scores[i, c], c, box))
    kept = []
    for score, c, box in sorted(found, key=lambda each: -each[0]):
        if all(c != other or iou(box, before) <= 0.5 for _, other, before in kept):
            kept.append((score, c, box))
    return kept[:most]


def case(rng, flavor):
    """Return outputs of 4 object classes for 2 images of 13 proposals, some of which are narrow or none."""
    options = RCNNOptions(**{**FLAVORS[flavor].options, "max_detections": 9})
    classes = 5 if flavor == "torchvision" else 4
    corner = rng.uniform(0, 60, (2, 13, 2))
    proposals = np.concatenate([corner, corner + rng.uniform(5, 40, (2, 13, 2))], -1)
    proposals[:, 3:6] = proposals[:, :3] + rng.normal(0, 1, (2, 3, 4))  # overlap much
    logits, deltas = rng.normal(0, 1.5, (2, 13, 5)), rng.normal(0, 1.5, (2, 13, classes, 4))
    deltas[:, 7, :, 2] = 30  # beyond the bound
    deltas[:, 8, :, 2] = -70  # narrower than torchvision's least side
    valid = rng.uniform(size=(2, 13)) < 0.9
    outputs = {"classes": jnp.asarray(logits, jnp.float32), "boxes": jnp.asarray(deltas, jnp.float32)}
    return options, outputs, jnp.asarray(proposals, jnp.float32), jnp.asarray(valid), np.array([[64.0, 96], [50, 61]])


@pytest.mark.parametrize(("flavor", "background", "least"), [("torchvision", 0, 1e-2), ("detectron2", 4, 0)])
def test_detections_of_random_outputs(rng, flavor, background, least):
    options, outputs, proposals, valid, sizes = case(rng, flavor)
    found = region_detections(outputs, proposals, valid, options, sizes=sizes)
    assert found.boxes.shape == (2, 9, 4) and found.classes.dtype == jnp.int32 and found.masks is None
    for i in range(2):
        arrays = (np.asarray(x[i], np.float64) for x in (outputs["classes"], outputs["boxes"], proposals))
        expected = found_by_loops(*arrays, np.asarray(valid[i]), sizes[i], background, least, 9)
        number = int(found.valid[i].sum())
        assert number == len(expected) > 5
        scores, classes, boxes = zip(*expected, strict=True)
        np.testing.assert_allclose(found.scores[i, :number], scores, rtol=1e-5)
        np.testing.assert_array_equal(found.classes[i, :number], classes)
        np.testing.assert_allclose(found.boxes[i, :number], boxes, rtol=1e-5, atol=1e-3)
        assert (found.classes[i, number:] == -1).all() and (found.scores[i, number:] == -jnp.inf).all()
        assert background not in classes


def of_three(logits, proposals):
    """Return what is found by three proposals and columns, boxes unmoved; one program for all such tests."""
    outputs = {"classes": jnp.asarray(logits, jnp.float32)[None], "boxes": jnp.zeros((1, 3, 3, 4))}
    boxes = jnp.asarray(proposals, jnp.float32)[None]
    sizes = np.array([[40.0, 40]])
    found = region_detections(outputs, boxes, jnp.ones((1, 3), bool), RCNNOptions(), sizes=sizes)
    return jax.tree.map(lambda x: np.asarray(x[0]), found)


def test_two_boxes_by_hand():
    """Of class 1 the first box is kept, of class 2 the second, as they overlap by 0.9; the third is background."""
    logits = np.log([[0.1, 0.8, 0.1], [0.2, 0.3, 0.5], [0.96, 0.02, 0.02]])
    found = of_three(logits, [[0, 0, 10, 10], [0, 0, 10, 9], [20, 20, 30, 30]])
    assert found.valid.sum() == 2 and found.classes[:2].tolist() == [1, 2]
    np.testing.assert_allclose(found.scores[:2], [0.8, 0.5], rtol=1e-6)
    np.testing.assert_allclose(found.boxes[:2], [[0, 0, 10, 10], [0, 0, 10, 9]])


def test_scores_that_round_to_one_keep_their_order():
    logits = [[0.0, 30.0, -90.0], [0.0, 40.0, -90.0], [0.0, 35.0, -90.0]]
    logs = np.asarray(log_probabilities(jnp.asarray(logits)))
    np.testing.assert_allclose(logs[:, 1], -np.exp([-30.0, -40.0, -35.0]), rtol=1e-6)
    np.testing.assert_allclose(logs[:, 0], [-30.0, -40.0, -35.0])
    found = of_three(logits, [[10 * i, 0, 10 * i + 5, 5] for i in range(3)])
    assert found.boxes[:3, 0].tolist() == [10, 20, 0] and found.scores[:3].tolist() == [1, 1, 1]


def test_what_is_not_a_number_is_not_found():
    found = of_three(np.full((3, 3), np.nan), [[0, 0, 9, 9], [1, 1, 5, 5], [2, 2, 30, 30]])
    assert not found.valid.any() and not found.boxes.any() and (found.classes == -1).all()


@pytest.mark.few(1)
@pytest.mark.parametrize("kind", [AxisType.Auto, AxisType.Explicit], ids=lambda kind: kind.name)
def test_a_batch_on_two_devices(rng, kind):
    """Each device finds what is in its own images, and nothing travels."""
    options, outputs, proposals, valid, sizes = case(rng, "torchvision")
    alone = region_detections(outputs, proposals, valid, options, sizes=sizes)
    mesh = jax.make_mesh((2,), ("data",), axis_types=(kind,), devices=jax.devices()[:2])
    with jax.set_mesh(mesh):
        whole = (outputs, proposals, valid, jnp.asarray(sizes, jnp.float32))
        split = jax.device_put(whole, NamedSharding(mesh, PartitionSpec("data")))
        run = jax.jit(lambda o, p, v, s: region_detections(o, p, v, options, sizes=s))
        found, text = run(*split), run.lower(*split).compile().as_text()
    assert not any(word in text for word in ("all-gather", "all-reduce", "all-to-all", "collective-permute"))
    for name in ("boxes", "scores", "classes", "valid"):
        np.testing.assert_array_equal(getattr(found, name), getattr(alone, name))
