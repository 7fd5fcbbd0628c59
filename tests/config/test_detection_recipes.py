"""Tests of the recipes of detection against the papers' numbers and tensorflow/tpu's code."""

import pytest
from flax import nnx

from aa_flax.config import detection_recipes
from aa_flax.data.facts import FACTS
from aa_flax.models import create_model
from aa_flax.models.registry import options_around
from aa_flax.tasks.detection import DetectionOptions
from aa_flax.tasks.options import options_of
from aa_flax.training import resolve
from aa_flax.training.optimizers import decays
from aa_flax.training.schedules import learning_rate


def rates(config):
    """Return the number of steps, and the function from an epoch to its learning rate."""
    epoch_steps = FACTS["coco/2017"].train_examples // config.batch_size
    steps = config.epochs * epoch_steps
    schedule = learning_rate(config.optimizer, steps, epoch_steps)
    return steps, lambda epoch: float(schedule(round(epoch * epoch_steps)))


def test_coco_from_scratch():
    config = resolve(detection_recipes.coco_retinanet())
    data, optimizer = config.data, config.optimizer
    assert (config.epochs, config.batch_size, config.model.dtype) == (150, 64, "bfloat16")
    assert (data.name, data.train_split, data.eval_split, data.image_size) == ("coco/2017", "train", "validation", 640)
    assert (data.crop, data.scale_range, data.flip, data.color_jitter) == ("scaled", (0.8, 1.2), True, 0)
    assert (optimizer.name, optimizer.momentum, optimizer.nesterov) == ("sgd", 0.9, False)
    assert (optimizer.weight_decay, optimizer.weight_decay_mode, optimizer.clip_norm) == (1e-4, "l2", 0)
    assert (config.model.init_from, config.model.frozen) == ("", ())
    steps, rate = rates(config)
    assert steps == 277_200  # those of retinanet_autoaugment.yaml of the same authors
    expected = {0: 0, 0.5: 0.04, 1: 0.08, 119.9: 0.08, 120: 8e-3, 139.9: 8e-3, 140: 8e-4, 149.9: 8e-4}
    assert {epoch: rate(epoch) for epoch in expected} == pytest.approx(expected, rel=2e-3)


def test_statistics_and_loss_are_those_of_a_core_with_8_images():
    config = resolve(detection_recipes.coco_retinanet())
    assert config.batch_size // config.parallel.batch_norm_groups == 8
    network = options_around("retinanet_resnet50", **config.model.options)
    assert network.normalizer == "device" and (network.batch_norm_momentum, network.batch_norm_epsilon) == (0.997, 1e-4)
    assert (network.focal_alpha, network.focal_gamma, network.box_loss_delta) == (0.25, 1.5, 0.1)


def test_classes_have_the_columns_of_their_numbers():
    assert options_of(resolve(detection_recipes.coco_retinanet()), DetectionOptions).columns == "category_ids"


def test_coco_from_a_backbone():
    scratch = resolve(detection_recipes.coco_retinanet())
    config = resolve(detection_recipes.coco_retinanet_from_backbone("w.pth", "torchvision"))
    assert (config.epochs, config.model.init_from, config.model.init_part) == (28, "w.pth", "backbone")
    assert config.model.init_source == "torchvision"
    assert (config.data, config.task, config.parallel) == (scratch.data, scratch.task, scratch.parallel)
    _, rate = rates(config)
    expected = {0.5: 0.04, 1: 0.08, 15.9: 0.08, 16: 8e-3, 21.9: 8e-3, 22: 8e-4, 27.9: 8e-4}
    assert {epoch: rate(epoch) for epoch in expected} == pytest.approx(expected, rel=2e-3)


@pytest.mark.few
@pytest.mark.parametrize("module", ["aa_", "se_", ""])
def test_what_decays(module):
    """In tensorflow/tpu every parameter decays but those of layers that were not given a name: the backbone's norms."""
    options = dict(blocks=(1, 1, 1, 1), width=16, fpn_width=8, head_width=8, head_depth=1)
    options |= dict(num_heads=1) if module == "aa_" else {}
    model = nnx.eval_shape(lambda: create_model(f"retinanet_{module}resnet50", rngs=nnx.Rngs(0), **options))
    norms = {path for path, each in nnx.iter_modules(model) if isinstance(each, nnx.BatchNorm)}
    params = nnx.to_pure_dict(nnx.state(model, nnx.Param))
    exclude = resolve(detection_recipes.coco_retinanet()).optimizer.weight_decay_exclude
    found = dict(_flat(decays(params, exclude)))
    assert len(found) > 60
    for path, shrinks in found.items():
        exempt = (path[0] == "backbone" and path[:-1] in norms) or path[-1] in ("rel_height", "rel_width")
        assert shrinks is not exempt, path
    assert found["fpn", "norm3", "scale"] and found["class_head", "norm1_level3", "bias"]
    assert found["class_head", "conv1", "bias"] and found["backbone", "stem", "kernel"]
    assert not found["backbone", "bn", "scale"] and not found["backbone", "stage1", "block1", "shortcut_bn", "bias"]


def _flat(tree, path=()):
    for name, value in tree.items():
        yield from _flat(value, (*path, name)) if isinstance(value, dict) else [((*path, name), value)]
