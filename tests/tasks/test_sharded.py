"""Tests of Faster R-CNN and UPerNet on several devices: state placed in several ways, meshes that are part of types."""

import jax
import numpy as np
import pytest
from flax import nnx
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from tasks import test_detection as detection
from tasks import test_segmentation as segmentation
from tasks.test_two_stage import TINY
from tasks.test_two_stage_run import LEARNING

from aa_flax.config.schema import resolve
from aa_flax.models.functional import functional
from aa_flax.tasks import make_task, rows_of
from aa_flax.training.program import Program
from aa_flax.training.sharding import Layout, place_batch
from aa_flax.training.step import reset_window

ATTENTION = dict(attention_stages=(4,), num_heads=2, kappa=0.5, upsilon=0.25, min_key_depth_per_head=3)
SEVERAL = {"both": {"fsdp": True, "model_devices": 2}, "fsdp": {"fsdp": True}, "heads over two": {"model_devices": 2}}


def two_stage(**groups):
    network = {"name": "faster_rcnn_aa_resnet18", "options": {**TINY, **LEARNING, **ATTENTION}}
    return detection.task(network=network, **groups)


def segmenter(**groups):
    tree = {
        "task": {"name": "segmentation", "options": {"window": 24, "flip": True}},
        "model": {"name": "upernet_aa_resnet18", "options": {**segmentation.TINY, **ATTENTION}},
        "data": {"crop": "scaled", "image_size": (32, 48)},
        "batch_size": 4,
        **groups,
    }
    return make_task(resolve(tree), segmentation.preprocessing(image_size=(32, 48)))


def labelled_batch(rng):
    labels = rng.choice(np.array([0, 1, 2, 255], np.uint8), (4, 32, 48))
    return {
        "image": rng.integers(0, 256, (4, 32, 48, 3), np.uint8),
        "labels": labels,
        "placement": np.tile(np.float32([0, 0, 48, 32, 32, 48, 32, 48]), (4, 1)),
    }


KINDS = {"faster_rcnn": (two_stage, detection.batch_of), "upernet": (segmenter, labelled_batch)}


def losses(kind, devices, **parallel):
    """Return the loss of two steps, the second after the gradient of the first, and how many arrays are split."""
    make, batch_of = KINDS[kind]
    the_task, batch = make(parallel=parallel), batch_of(np.random.default_rng(11))
    batch = jax.tree.map(np.asarray, batch)
    layout = Layout.of(the_task.config, jax.devices()[:devices])
    program = Program.of(the_task.config, the_task.preprocessing, layout, 10, task=the_task)
    state, found = program.new_state(), []
    split = sum(not leaf.sharding.is_fully_replicated for leaf in jax.tree.leaves(state))
    with jax.set_mesh(layout.mesh):
        for _ in range(2):
            state = program.train_step(state, place_batch(batch, layout))
            found.append(float(state.window["loss"]))
            state = reset_window(state)
    assert int(state.skipped) == 0
    return found, split


@pytest.mark.few(0, thorough=2)  # Faster R-CNN in both ways, UPerNet with its state split
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", SEVERAL)
def test_steps_are_those_of_one_device(kind, name):
    alone, _ = losses(kind, 1)
    many, split = losses(kind, 4, **SEVERAL[name])
    assert alone[0] != alone[1] and (split > 0) == SEVERAL[name].get("fsdp", False)
    np.testing.assert_allclose(many, alone, rtol=1e-4)


@pytest.mark.thorough
@pytest.mark.parametrize("kind", KINDS)
def test_it_is_traced_on_a_mesh_whose_shardings_are_part_of_the_types(kind):
    """Training, with the gradient, and what is scored; what an image gives stays where the image is."""
    mesh = jax.make_mesh((4,), ("data",), axis_types=(AxisType.Explicit,), devices=jax.devices()[:4])
    make, batch_of = KINDS[kind]
    the_task, batch = make(), {**batch_of(np.random.default_rng(11)), "mask": np.ones(4, bool)}
    model = nnx.eval_shape(lambda: the_task.build(nnx.Rngs(0)))
    apply, params, statistics = functional(model, the_task.losses)
    predict, _, _ = functional(model, lambda model, *arguments, **_: the_task.predict(model, *arguments))

    def placed(leaf, *axes):
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=NamedSharding(mesh, PartitionSpec(*axes)))

    def trained(params, statistics, batch):
        def share(params):
            images, targets, total = the_task.prepare(batch, jax.random.key(0))
            found, _ = apply(params, statistics, images, targets, train=True, rngs=jax.random.key(1))
            return found[0].sum() / total, found[0]

        return jax.value_and_grad(share, has_aux=True)(params)

    def scored(params, statistics, batch):
        images = the_task.preprocessing.normalize(batch["image"], batch["placement"])
        found, _ = predict(params, statistics, images, batch["placement"])
        return the_task.score(found, batch), rows_of(the_task, found, batch["image"], batch["placement"])

    with jax.set_mesh(mesh):
        arrays = (*jax.tree.map(placed, (params, statistics)), jax.tree.map(lambda leaf: placed(leaf, "data"), batch))
        (_, of_images), gradient = jax.jit(trained).trace(*arrays).out_info
        sums, rows = jax.jit(scored).trace(*arrays).out_info
    assert all(
        leaf.sharding.spec[0] == "data" for leaf in (of_images, *rows.values()) if leaf is not rows.get("canvas")
    )
    assert not any(any(leaf.sharding.spec) for leaf in jax.tree.leaves((gradient, sums)))
