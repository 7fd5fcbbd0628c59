"""Tests of the running normalizer of detection's losses, in the train step of a run, and of the loss GIoU."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from ops import box_oracle
from tasks.test_detection import CANVAS, TINY, batch_of, task

from aa_flax.layers.running_count import RunningCount
from aa_flax.models import create_model
from aa_flax.models.functional import functional
from aa_flax.tasks.detection_losses import image_losses
from aa_flax.tasks.micro_batches import cut as cut_up
from aa_flax.tasks.micro_batches import piece_of_each
from aa_flax.training.optimizers import optimizer
from aa_flax.training.state import create_state
from aa_flax.training.step import make_train_step
from aa_flax.weights.arrays import flat_arrays


class Constant(nnx.Module):
    """A detector whose outputs do not depend on the image, all logits being one parameter."""

    def __init__(self, anchors, columns):
        self.logit, self.loss_normalizer = nnx.Param(jnp.float32(-2.0)), RunningCount()
        self._shape = anchors, columns

    def __call__(self, images, *, train, rngs):
        anchors, columns = self._shape
        logits = jnp.broadcast_to(self.logit[...], (images.shape[0], anchors, columns))
        return {"classes": logits, "boxes": jnp.zeros((images.shape[0], anchors, 4))}


class Run:
    """A compiled step, the state before it, and what the step prepares, without draws."""

    def __init__(self, pieces):
        self.task = task(
            model={"normalizer": "running"},
            data={"flip": False},
            optimizer={"accumulation_steps": pieces, "ema_decay": 0.5},
        )
        anchors = self.task._network.anchor_boxes(*CANVAS)
        self.model = Constant(len(anchors), self.task.num_columns)
        losses, params, stats = functional(self.model, self.task.losses)
        chain = optimizer(self.task.config.optimizer, 10, 5)
        self.step = jax.jit(make_train_step(self.task, losses, chain, self.task.config))
        self.state = create_state(params, stats, chain, True, self.task.metrics)
        self.prepare = jax.jit(self.task.prepare)


@pytest.fixture(scope="module")
def whole():
    return Run(1)


@pytest.fixture(scope="module")
def cut():
    return Run(2)


@pytest.fixture(scope="module")
def batches():
    rng = np.random.default_rng(5)
    return [batch_of(rng, objects=objects) for objects in ((5, 5, 4, 3), (0, 0, 0, 0), (1, 0, 2, 0), (5, 0, 0, 1))]


def normalizer(state):
    return float(state.batch_stats["loss_normalizer"]["mean"])


def test_micro_batches_are_numbered_as_they_are_cut():
    for pieces in (1, 2, 3):
        numbers = cut_up(piece_of_each(6, pieces), pieces)
        np.testing.assert_array_equal(numbers, np.repeat(np.arange(pieces)[:, None], 6 // pieces, 1))


@pytest.mark.thorough  # two train steps are compiled
def test_the_sequence_is_that_of_a_loop(whole, cut, batches):
    mean, expected, found = 100.0, [], {1: [], 2: []}
    states = {1: whole.state, 2: cut.state}
    for batch in batches:
        positives = int((whole.prepare(batch, jax.random.key(0))[1]["matched"] >= 0).sum())
        mean = 0.9 * mean + 0.1 * max(positives, 1)
        expected.append(mean)
        for pieces, run in ((1, whole), (2, cut)):
            states[pieces] = run.step(states[pieces], batch)
            found[pieces].append(normalizer(states[pieces]))
    np.testing.assert_allclose(found[1], expected, rtol=1e-6)
    assert found[1] == found[2]  # to the last bit, although positives lie in both micro-batches
    assert expected[1] == 0.9 * expected[0] + 0.1  # of a batch without objects
    np.testing.assert_allclose(states[1].window["loss"], states[2].window["loss"], rtol=1e-5)


def test_a_loss_is_the_sum_over_the_average(whole, batches):
    images, targets, total = whole.prepare(batches[0], jax.random.key(0))
    apply, params, stats = functional(whole.model, whole.task.losses)
    outputs = whole.model(images, train=False, rngs=None)
    anchors = whole.task._network.anchor_boxes(*CANVAS)
    classes, boxes = jax.jit(lambda outputs: image_losses(whole.task._network, outputs, anchors, targets))(outputs)
    summed, positives = float((classes + boxes).sum()), int((targets["matched"] >= 0).sum())
    assert float(total) == 1 and positives > 20
    call = jax.jit(lambda stats, train: apply(params, stats, images, targets, train=train), static_argnums=1)
    for train, average in ((False, 100.0), (True, 90 + 0.1 * positives), (False, 90 + 0.1 * positives)):
        (losses, metrics), stats = call(stats, train)
        assert float(losses.sum() / total) == pytest.approx(summed / average, rel=1e-5)
        means = {name: float(sum_ / count) for name, (sum_, count) in metrics.items()}
        assert means["class_loss"] + means["box_loss"] == pytest.approx(summed / average, rel=1e-5)
        assert float(stats["loss_normalizer"]["mean"]) == pytest.approx(average)


@pytest.mark.thorough
def test_resumed_and_skipped_steps(cut, batches):
    state = cut.step(cut.step(cut.state, batches[0]), batches[1])
    resumed = state.with_items(jax.tree.map(jnp.asarray, jax.device_get(state.items())))
    bad = cut.step(dataclasses.replace(state, params={"logit": jnp.float32(np.nan)}), batches[2])
    assert int(bad.skipped) == 1 and normalizer(bad) == normalizer(state) != 100
    for batch in batches[2:]:
        state, resumed = cut.step(state, batch), cut.step(resumed, batch)
    for one, other in zip(jax.tree.leaves(state), jax.tree.leaves(resumed), strict=True):
        np.testing.assert_array_equal(one, other)
    assert int(state.step) == 4 and int(state.skipped) == 0


def test_it_is_no_parameter_and_in_no_file_of_weights():
    options = {**TINY, "num_classes": 3, "normalizer": "running"}
    model = nnx.eval_shape(lambda: create_model("retinanet_resnet18", **options, rngs=nnx.Rngs(0)))
    _, params, stats = functional(model)
    assert "loss_normalizer" not in params and stats["loss_normalizer"]["mean"].shape == ()
    assert not any("loss_normalizer" in path for path in flat_arrays(model)) and len(flat_arrays(model)) > 100


def test_giou_of_the_decoded_boxes(rng, whole):
    """Each positive anchor's box, by a loop in float64; a side that would overflow is bounded."""
    the_task = task(model={"box_loss": "giou", "box_loss_weight": 2.0})
    _, targets, _ = whole.prepare(batch_of(rng), jax.random.key(0))
    anchors = the_task._network.anchor_boxes(*CANVAS)
    deltas = rng.normal(0, 0.3, (4, len(anchors), 4)).astype(np.float32)
    first = int(np.flatnonzero(np.asarray(targets["matched"][0]) >= 0)[0])
    deltas[0, first, 2:] = 60.0, -1e4
    logits = jnp.zeros((4, len(anchors), 3))

    def losses(deltas):
        return image_losses(the_task._network, {"classes": logits, "boxes": deltas}, anchors, targets)[1]

    found, gradient = jax.jit(lambda x: (losses(x), jax.grad(lambda x: losses(x).sum())(x)))(deltas)
    assert np.isfinite(gradient).all() and np.abs(gradient).max() > 0
    expected = np.zeros(4)
    for i, k in zip(*np.nonzero(np.asarray(targets["matched"]) >= 0), strict=True):
        a, d = anchors[k].astype(np.float64), deltas[i, k].astype(np.float64)
        sides = a[2:] - a[:2]
        centre = (a[:2] + a[2:]) / 2 + d[:2] * sides
        half = np.exp(np.minimum(d[2:], math.log(1000 / 16))) * sides / 2
        truth = np.asarray(targets["boxes"][i, targets["matched"][i, k]])
        expected[i] += 2 * (1 - box_oracle.overlap([*(centre - half), *(centre + half)], truth, "giou"))
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    assert expected[1] == 0 < expected[0]
