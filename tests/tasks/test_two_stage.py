"""Tests of detection in two stages: what is drawn, losses against loops, micro-batches, images without objects."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from tasks.test_detection import CANVAS, batch_of, iou, preprocessing, task

from aa_flax.models.detections import Detections
from aa_flax.models.functional import functional
from aa_flax.models.rcnn_options import RCNNOptions
from aa_flax.tasks.micro_batches import cut

TINY = dict(
    width=4,
    blocks=(1, 1, 1, 1),
    fpn_width=8,
    rpn_width=8,
    box_head_width=8,
    region_size=3,
    anchor_size=2.0,
    rpn_samples=24,
    box_samples=12,
    proposals=30,
    proposals_in_training=30,
    frozen_stages=0,
)
LOSSES = ("objectness_loss", "proposal_loss", "class_loss", "box_loss")


def two_stage(flavor="torchvision", **groups):
    model = {"name": "faster_rcnn_resnet18", "options": {**TINY, "flavor": flavor, **groups.pop("model", {})}}
    return task(**groups, network=model)


class Fixed:
    """A network with given proposals, and outputs that are functions of the place of an anchor or of a box.

    The first pixel of an image says which one it is.
    """

    def __init__(self, rng, options, columns, objects):
        anchors = len(options.anchor_boxes(*CANVAS))
        images = len(objects)
        self.objectness = jnp.asarray(rng.normal(size=(images, anchors)), jnp.float32)
        self.deltas = jnp.asarray(rng.normal(0, 0.3, (images, anchors, 4)), jnp.float32)
        corner = rng.uniform(0, 35, (images, 20, 2))
        boxes = np.concatenate([corner, corner + rng.uniform(3, 12, (images, 20, 2))], -1)
        boxes[:, :5] = np.asarray(objects) + rng.uniform(-0.4, 0.4, (images, 5, 4))  # near objects, or near 0
        self.boxes = jnp.asarray(boxes, jnp.float32)
        self.valid = jnp.asarray(rng.random((images, 20)) < 0.8)
        background_last = options.background == "last"
        self.classes = jnp.asarray(rng.normal(size=(4, columns + background_last)), jnp.float32) / 9
        self.moves = jnp.asarray(rng.normal(size=(4, columns * 4)), jnp.float32) / 99

    def features(self, images, *, train, rngs=None):
        return {"which": images[:, 0, 0, 0].astype(int)}

    def propose(self, maps, height, width, *, sizes, train):
        which = maps["which"]
        assert (height, width) == CANVAS and sizes.shape == (len(which), 2)
        outputs = {"objectness": self.objectness[which], "proposal_deltas": self.deltas[which]}
        return {**outputs, "proposals": self.boxes[which], "valid": self.valid[which]}

    def box_outputs(self, maps, boxes):
        self.seen = boxes
        return {"classes": boxes @ self.classes, "boxes": (boxes @ self.moves).reshape(*boxes.shape[:2], -1, 4)}

    def detections(self, outputs, boxes, valid, height, width, *, sizes):
        room = sizes.shape[0], 3
        return Detections(jnp.zeros((*room, 4)), jnp.zeros(room), jnp.zeros(room, jnp.int32), jnp.zeros(room, bool))

    def masks(self, maps, found):
        return None


def numbered(images):
    return jnp.zeros((images, *CANVAS, 3)).at[:, 0, 0, 0].set(jnp.arange(images))


def smooth_l1(missed, form, beta):
    missed = np.abs(missed)
    return (missed if form == "l1" else np.where(missed < beta, missed**2 / (2 * beta), missed - beta / 2)).sum()


def offsets(box, of, weights):
    centre, side = (box[:2] + box[2:]) / 2, box[2:] - box[:2]
    from_centre, from_side = (of[:2] + of[2:]) / 2, of[2:] - of[:2]
    return np.concatenate([(centre - from_centre) / from_side, np.log(side / from_side)]) * weights


def of_anchors(the_task, network, i, truths, indices, matches):
    """Return the sums of both losses over an image's anchors, which are checked to be rightly matched."""
    options = the_task._network
    anchors = options.anchor_boxes(*CANVAS).astype(np.float64)
    overlaps = np.array([[iou(a, t) for t in truths] for a in anchors]).reshape(len(anchors), len(truths))
    most = overlaps.max(0) if len(truths) else np.zeros(0)
    objectness = moved = 0.0
    for k, match in zip(indices, matches, strict=True):
        if match == -2:
            continue
        best = overlaps[k].max(initial=0)
        seized = bool(len(truths)) and (overlaps[k][most > 0] >= most[most > 0] - 1e-6).any()
        logit = float(network.objectness[i, k])
        if match == -1:
            assert best < 0.3 + 1e-6
            objectness += np.log1p(np.exp(logit))
        else:
            assert (best >= 0.7 - 1e-6 or seized) and match == overlaps[k].argmax()
            objectness += np.log1p(np.exp(-logit))
            wanted = offsets(truths[match], anchors[k], np.ones(4))
            missed = np.asarray(network.deltas[i, k], np.float64) - wanted
            moved += smooth_l1(missed, options.rpn_box_loss, options.rpn_box_loss_beta)
    return objectness, moved


def of_regions(the_task, network, truths, labels, boxes):
    """Return the means of both losses over an image's regions, and how many of them have an object."""
    options, entropy, moved, positives, columns = the_task._network, 0.0, 0.0, 0, the_task.num_columns
    for box in boxes:
        overlaps = [iou(box, t) for t in truths]
        best = int(np.argmax(overlaps)) if overlaps else -1
        positive = best >= 0 and overlaps[best] >= 0.5
        positives += positive
        column = the_task._columns[labels[best]] if positive else (0 if options.background == "first" else columns)
        logits = box @ np.asarray(network.classes, np.float64)
        entropy += np.log(np.exp(logits).sum()) - logits[column]
        if positive:
            deltas = (box @ np.asarray(network.moves, np.float64)).reshape(-1, 4)[column]
            missed = deltas - offsets(truths[best], box, np.array([10, 10, 5, 5]))
            moved += smooth_l1(missed, options.box_loss, options.box_loss_beta)
    return entropy / len(boxes), moved / len(boxes), positives


class Case:
    """A task, a batch, a network with fixed outputs for its images, and what a training step computes, compiled."""

    def __init__(self, flavor):
        rng = np.random.default_rng(11)
        self.task = two_stage(flavor, data={"flip": False})
        self.batch = batch_of(rng)
        self.network = Fixed(rng, self.task._network, self.task.num_columns, self.batch["boxes"])
        self.prepare = jax.jit(self.task.prepare)
        self.losses = jax.jit(self._losses)

    def _losses(self, images, targets):
        """Return what `losses` of the task does, and the boxes of the regions that the network was shown."""
        return self.task.losses(self.network, images, targets, train=True, rngs=None), self.network.seen


case = functools.cache(Case)


@pytest.mark.few
@pytest.mark.parametrize("flavor", ["torchvision", "detectron2"])
def test_losses_are_those_of_loops(flavor):
    the_task, batch, network = case(flavor).task, case(flavor).batch, case(flavor).network
    _, targets, total = case(flavor).prepare(batch, jax.random.key(0))
    (losses, metrics), shown = case(flavor).losses(numbered(4), targets)
    drawn = (np.asarray(targets["anchors"]), np.asarray(targets["matches"]))
    used = (drawn[1] != -2).sum()
    assert used <= 4 * 24 and ((drawn[1] >= 0).sum(1) <= 12).all() and (drawn[1] >= 0).sum() > 8
    by_hand, truths_seen = [], 0
    for i, count in enumerate((2, 0, 1, 5)):
        truths = np.asarray(batch["boxes"][i, :count], np.float64)
        labels = np.asarray(batch["classes"][i, :count])
        sums = of_anchors(the_task, network, i, truths, drawn[0][i], drawn[1][i])
        seen = np.asarray(shown[i], np.float64)
        seen = seen[(seen != 0).any(-1)]
        *means, positives = of_regions(the_task, network, truths, labels, seen)
        by_hand.append((*sums, *means, positives))
        assert positives <= 3 and len(seen) <= 12
        truths_seen += sum((box == truths).all(-1).any() for box in seen) if count else 0
    assert truths_seen > 0  # objects are among the regions
    by_hand = np.array(by_hand)
    share = 4 / (used if flavor == "torchvision" else 4 * 24)
    expected = by_hand[:, :4] * [share, share, 1, 1]
    assert float(total) == 4
    np.testing.assert_allclose(losses, expected.sum(1), rtol=3e-5)
    for place, name in enumerate(LOSSES):
        np.testing.assert_allclose(metrics[name][0] / metrics[name][1], expected[:, place].mean(), rtol=3e-5)
    np.testing.assert_allclose(metrics["positives"][0] / metrics["positives"][1], by_hand[:, 4].mean())


@pytest.mark.thorough
def test_held_out_losses_are_those_of_loops():
    the_task, batch, network = case("torchvision").task, case("torchvision").batch, case("torchvision").network
    mask = np.array([True, True, False, True])
    images = numbered(4)
    predictions = the_task.predict(network, images, batch["placement"])
    score, held = jax.jit(the_task.score), {**batch, "mask": jnp.asarray(mask)}
    sums = score(predictions, held)
    assert sums.keys() == {*LOSSES, "anchors", "images"} and float(sums["images"]) == 3
    again = score(predictions, held)
    assert all(float(sums[name]) == float(again[name]) for name in sums)
    # All regions are drawn where there is room for them: nothing is left to chance.
    roomy = two_stage(model=dict(box_samples=400, box_positive_fraction=1.0))
    found = jax.jit(roomy.score)(predictions, held)
    by_hand = []
    for i, count in enumerate((2, 0, 1, 5)):
        boxes = np.asarray(network.boxes[i], np.float64)[np.asarray(network.valid[i])]
        truths = np.asarray(batch["boxes"][i, :count], np.float64)
        by_hand.append(of_regions(roomy, network, truths, np.asarray(batch["classes"][i, :count]), boxes)[:2])
    for place, name in enumerate(LOSSES[2:]):
        np.testing.assert_allclose(found[name], np.array(by_hand)[mask, place].sum(), rtol=3e-5)
    values = the_task._kind.held_out({name: float(value) for name, value in sums.items()})
    assert values["objectness_loss"] == pytest.approx(float(sums["objectness_loss"] / sums["anchors"]))
    assert values["class_loss"] == pytest.approx(float(sums["class_loss"]) / 3)
    assert values["loss"] == pytest.approx(sum(values[name] for name in LOSSES))


def test_pieces_come_to_the_whole():
    """A batch cut into micro-batches has the same loss, although each image's anchors and regions are drawn."""
    its = case("torchvision")
    _, targets, total = its.prepare(its.batch, jax.random.key(3))
    (whole, metrics), _ = its.losses(numbered(4), targets)
    pieces = jax.tree.map(lambda x: cut(x, 2), (numbered(4), targets))
    found = [its.losses(*jax.tree.map(lambda x, piece=piece: x[piece], pieces))[0] for piece in range(2)]
    np.testing.assert_allclose(jnp.stack([losses for losses, _ in found], 1).ravel(), whole, rtol=1e-6)
    for name, (sum_, count) in metrics.items():
        np.testing.assert_allclose(sum(each[name][0] for _, each in found), sum_, rtol=1e-6)
        assert sum(each[name][1] for _, each in found) == count == float(total) == 4


def test_what_is_drawn_depends_on_the_key_and_the_place_in_the_batch(rng):
    batch = batch_of(rng, sizes=((48, 64),) * 4, objects=(3,) * 4)
    batch = {name: jnp.stack([values[0]] * 4) for name, values in batch.items()}  # the same image in each place

    def drawn(key, images=4):
        some = {name: values[:images] for name, values in batch.items()}
        targets = case("torchvision").prepare(some, jax.random.key(key))[1]
        return np.asarray(targets["anchors"]), np.asarray(jax.random.key_data(targets["keys"]))

    (anchors, keys), (others, other_keys), (first, first_keys) = drawn(0), drawn(1), drawn(0, 2)
    assert len({tuple(row) for row in [*anchors, *others]}) == 8  # no two images have the same ones
    assert len({tuple(key) for key in [*keys, *other_keys]}) == 8
    np.testing.assert_array_equal(first, anchors[:2])
    np.testing.assert_array_equal(first_keys, keys[:2])
    np.testing.assert_array_equal(drawn(0)[0], anchors)


def test_a_batch_without_objects(rng):
    _, targets, _ = case("torchvision").prepare(batch_of(rng, objects=(0, 0, 0, 0)), jax.random.key(0))
    (losses, metrics), _ = case("torchvision").losses(numbered(4), targets)
    assert np.isfinite(losses).all() and (np.asarray(losses) > 0).all()
    assert float(metrics["proposal_loss"][0]) == float(metrics["box_loss"][0]) == float(metrics["positives"][0]) == 0
    assert float(metrics["objectness_loss"][0]) > 0 and float(metrics["class_loss"][0]) > 0


@pytest.mark.thorough
def test_gradients_without_objects_and_without_proposals(rng):
    """Every gradient is finite; those of boxes are 0 where nothing is to be found."""
    the_task = two_stage()
    model = the_task.build(nnx.Rngs(0))
    apply, params, stats = functional(model, the_task.losses)
    images, targets, total = the_task.prepare(batch_of(rng, objects=(0, 0, 0, 0)), jax.random.key(0))

    @jax.jit
    @jax.value_and_grad
    def gradient(params, targets):
        (losses, _), _ = apply(params, stats, images, targets, train=True, rngs=jax.random.key(1))
        return losses.sum() / total

    for sizes in (targets["sizes"], jnp.zeros((4, 2))):  # of images without area no proposal is left
        loss, grads = gradient(params, {**targets, "sizes": sizes})
        assert np.isfinite(loss) and loss > 0
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(grads))
        assert any(np.abs(leaf).max() > 0 for leaf in jax.tree.leaves(grads["fpn"]))


def test_the_kind_goes_by_the_options():
    the_task = two_stage()
    assert isinstance(the_task._network, RCNNOptions) and {*the_task.metrics} == {*LOSSES, "positives"}
    assert {*task().metrics} == {"class_loss", "box_loss", "positives"}
    assert the_task.num_columns == 4 and two_stage("detectron2").num_columns == 3
    assert preprocessing().class_names == ("ant", "bee", "cat")
