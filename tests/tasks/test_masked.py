"""Tests of Mask R-CNN as a kind of detector: what it is trained on, and how its loss is shared out."""

import functools
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tasks.test_detection import batch_of, task
from tasks.test_two_stage import TINY

from aa_flax.data.array_source import ArraySource
from aa_flax.data.errors import DataError
from aa_flax.tasks.mask_losses import mask_targets
from aa_flax.tasks.masked import Masked
from aa_flax.tasks.micro_batches import cut
from aa_flax.tasks.region_losses import SampledRegions

SIDE = 13


@pytest.fixture(scope="module")
def the_task():
    network = {"name": "mask_rcnn_resnet18", "options": {**TINY, "mask_region_size": 7}}
    return task(network=network, data={"flip": True})


@pytest.fixture(scope="module")
def batch():
    rng = np.random.default_rng(4)
    made = batch_of(rng, objects=(2, 3, 1, 5))
    masks = rng.integers(0, 2, (4, 5, SIDE, SIDE), np.uint8) * np.asarray(made["valid"])[..., None, None]
    return {**made, "masks": jnp.asarray(masks, jnp.uint8)}


def test_a_masked_task_reads_masks_and_is_compared_by_their_ap(the_task):
    assert isinstance(the_task._kind, Masked) and the_task.headline == "mask_AP" and "mask_loss" in the_task.metrics
    assert the_task.targets.shapes["masks"].shape == (5, 112, 112) and "mask_AP" in the_task.fractions
    assert "masks" not in task().targets.shapes and task().headline == "AP"


def test_data_without_masks_are_refused_before_they_are_trained_on(the_task):
    def refuse():
        raise DataError("no masks")

    targets = {"boxes": np.zeros((1, 5, 4), np.float32)}
    source = ArraySource("some", np.zeros((1, 8, 9, 3), np.uint8), targets)
    source.annotations = types.SimpleNamespace(require_masks=refuse, require_at_most=lambda most: None)
    for each in (the_task.check_source, the_task.scorer):
        with pytest.raises(DataError, match="no masks"):
            each(source)
    task().check_source(source)  # a detector of boxes


def test_masks_are_mirrored_with_their_boxes(the_task, batch):
    _, targets, _ = jax.jit(the_task.prepare)(batch, jax.random.key(5))
    moved = np.asarray((targets["boxes"] != batch["boxes"]).any((1, 2)))
    assert 0 < moved.sum() < 4
    for image in range(4):
        expected = np.asarray(batch["masks"][image])
        np.testing.assert_array_equal(targets["masks"][image], expected[..., ::-1] if moved[image] else expected)


class Head:
    """A network whose masks are functions of the boxes, which it remembers."""

    def mask_outputs(self, maps, boxes):
        self.seen = boxes
        waves = jnp.sin(boxes.sum(-1)[:, :, None, None, None] * jnp.arange(1, 14 * 14 * 4 + 1).reshape(1, 1, 14, 14, 4))
        return waves * maps["scale"]


def test_the_loss_is_the_mean_over_positive_regions_of_a_micro_batch(the_task, batch):
    """Two micro-batches with other numbers of positives: the mean of each one's mean; no background is looked at."""
    rng = np.random.default_rng(1)
    most = int(TINY["box_samples"] * 0.25)
    matches = np.full((4, TINY["box_samples"]), -1)
    counts = [1, 3, 0, 2]
    for image, count in enumerate(counts):
        matches[image, :count] = rng.integers(0, [2, 3, 1, 5][image], count)
    corner = rng.uniform(0, 30, (4, TINY["box_samples"], 2))
    boxes = np.concatenate([corner, corner + rng.uniform(5, 20, corner.shape)], -1).astype(np.float32)
    regions = SampledRegions(jnp.zeros_like(matches), jnp.asarray(matches), jnp.asarray(boxes))
    objects = the_task._objects(batch)
    head = Head()

    @jax.jit
    def losses(regions, objects):
        return the_task._kind.more_losses(head, {"scale": jnp.float32(2)}, regions, objects)["mask_loss"]

    whole = losses(regions, objects)
    assert head.seen.shape == (4, most, 4)
    targets = jax.jit(functools.partial(mask_targets, side=14, hard=False, aligned=False))
    wanted = targets(objects["masks"], objects["boxes"], regions.boxes, regions.matches)
    sums = np.zeros(4)
    for image, region in np.argwhere(matches >= 0):
        column = int(objects["columns"][image, matches[image, region]])
        waves = np.sin(boxes[image, region].sum() * np.arange(1, 785, dtype=np.float32)).reshape(14, 14, 4)
        x, t = 2 * waves[..., column].astype(np.float64), np.asarray(wanted[image, region], np.float64)
        sums[image] += (np.maximum(x, 0) - x * t + np.log1p(np.exp(-abs(x)))).mean()
    assert float(whole.mean()) == pytest.approx(sums.sum() / 6, rel=1e-3)
    halves = [losses(*jax.tree.map(lambda each, k=k: cut(each, 2)[k], (regions, objects))) for k in range(2)]
    # Every second image goes to the same micro-batch.
    means = [float(each.mean()) for each in halves]
    assert means == pytest.approx([sums[0::2].sum() / 1, sums[1::2].sum() / 5], rel=1e-3)
