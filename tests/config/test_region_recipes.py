"""Tests of the recipes of Faster and Mask R-CNN against the numbers of detectron2, mmdetection and XCiT."""

import jax
import pytest
from flax import nnx

from aa_flax.config import region_recipes
from aa_flax.data.facts import FACTS
from aa_flax.data.placement import scaled
from aa_flax.models import create_model
from aa_flax.models.registry import options_around
from aa_flax.training import resolve
from aa_flax.training.optimizers import decays
from aa_flax.training.schedules import learning_rate

FASTER = resolve(region_recipes.coco_faster_rcnn("w.pth", "torchvision"))
MASK = resolve(region_recipes.coco_mask_rcnn("w.pth", "torchvision"))
LONG = resolve(region_recipes.coco_mask_rcnn("w.safetensors", schedule="3x"))
PATCHCONVNET = resolve(region_recipes.coco_mask_rcnn_patchconvnet("w.safetensors"))


def rates(config):
    """Return the number of steps, and the function from a step to its learning rate."""
    epoch_steps = FACTS[config.data.name].train_examples // config.batch_size
    steps = config.epochs * epoch_steps
    return steps, epoch_steps, learning_rate(config.optimizer, steps, epoch_steps)


@pytest.mark.parametrize(
    ("config", "peak", "warm", "drops", "steps"),
    [
        (FASTER, 0.02, 1000, (8, 11), 88_704),
        (MASK, 0.02, 1000, (8, 11), 88_704),
        (LONG, 0.02, 1000, (28, 33), 266_112),
        (PATCHCONVNET, 1e-4, 500, (27, 33), 266_112),
    ],
    ids=["faster", "mask", "3x", "patchconvnet"],
)
def test_steps_and_rates(config, peak, warm, drops, steps):
    found, epoch_steps, rate = rates(config)
    assert found == steps and config.batch_size == 16
    expected = {0: peak / 1000, warm // 2: 0.5005 * peak, warm: peak}
    for count, epoch in enumerate(drops):
        expected |= {epoch * epoch_steps - 1: peak / 10**count, epoch * epoch_steps: peak / 10 ** (count + 1)}
    assert {step: float(rate(step)) for step in expected} == pytest.approx(expected, rel=1e-4)


def test_the_rest_of_the_recipes():
    sgd, adam = FASTER.optimizer, PATCHCONVNET.optimizer
    assert (sgd.name, sgd.momentum, sgd.weight_decay, sgd.weight_decay_mode) == ("sgd", 0.9, 1e-4, "l2")
    assert (adam.name, adam.beta1, adam.beta2, adam.adam_epsilon) == ("adamw", 0.9, 0.999, 1e-8)
    assert (adam.weight_decay, adam.weight_decay_mode, adam.clip_norm) == (0.05, "decoupled", 0)
    assert (MASK.optimizer, MASK.model) == (sgd, FASTER.model)
    for config in (FASTER, MASK, LONG, PATCHCONVNET):
        assert (config.model.init_from, config.model.init_part) == (config.model.init_from, "backbone")
        assert config.data.flip and config.model.dtype == "bfloat16"
    # COCO's own files call the split of validation "val", and have the masks.
    assert {(c.data.name, c.data.eval_split) for c in (MASK, LONG, PATCHCONVNET)} == {("coco_json/coco2017", "val")}
    assert (FASTER.data.name, FASTER.data.eval_split) == ("coco/2017", "validation")


@pytest.mark.parametrize(("config", "shortest", "longest"), [(FASTER, 640, 800), (PATCHCONVNET, 480, 800)])
def test_canvases_follow_the_shorter_sides(config, shortest, longest):
    """A photograph of 480×640, as most of COCO's, just fits: its shorter side is nearly what the recipe draws from."""
    data = config.data
    assert data.crop == "scaled" and data.scale_range == (1, 1) and len(data.train_sizes) == 5
    shorter = sorted(scaled(size)(480, 640).size[0] for size in data.train_sizes)
    assert shorter[0] == pytest.approx(shortest, abs=8) and shorter[-1] == pytest.approx(longest, abs=16)
    assert scaled(data.image_size)(480, 640).size == (shorter[-1], 1088) == scaled(data.image_size)(640, 480).size[::-1]
    assert all(side % 32 == 0 for size in (*data.train_sizes, data.image_size) for side in size)


def test_what_the_losses_are():
    torch = options_around("faster_rcnn_resnet101", **FASTER.model.options)
    assert (torch.rpn_box_loss, torch.box_loss, torch.rpn_normalizer) == ("l1", "l1", "images")
    assert (torch.proposals_in_training, torch.proposals, torch.box_samples) == (1000, 1000, 512)
    assert (torch.frozen_norms, torch.frozen_stages, torch.batch_norm_epsilon) == (True, 1, 1e-5)
    other = options_around("mask_rcnn_patchconvnet_s60", **PATCHCONVNET.model.options)
    assert (other.rpn_normalizer, other.frozen_stages, other.mask_targets) == ("samples", 0, "hard")


def test_what_decays():
    """With AW's gates: all but the batch norms, those inside gates too; biases of pyramid and heads decay."""
    options = dict(blocks=(1, 1, 1, 1), width=16, fpn_width=8, rpn_width=8, box_head_width=8)
    model = nnx.eval_shape(lambda: create_model("faster_rcnn_aw_resnet50", rngs=nnx.Rngs(0), **options))
    norms = {path for path, each in nnx.iter_modules(model) if isinstance(each, nnx.BatchNorm)}
    found = decays(nnx.to_pure_dict(nnx.state(model, nnx.Param)), FASTER.optimizer.weight_decay_exclude)
    leaves = {tuple(p.key for p in path): leaf for path, leaf in jax.tree.leaves_with_path(found)}
    assert len(norms) > 15 and ("backbone", "stage2", "block1", "conv2", "bn") in norms
    assert {path for path, shrinks in leaves.items() if not shrinks} == {path for path in leaves if path[:-1] in norms}
