"""Tests of the recipes of segmentation against the numbers of XCiT and mmsegmentation."""

import pytest

from aa_flax.config import segmentation_recipes
from aa_flax.data.facts import FACTS
from aa_flax.models.registry import options_around
from aa_flax.tasks.options import options_of
from aa_flax.tasks.segmentation_options import SegmentationOptions
from aa_flax.training import resolve
from aa_flax.training.schedules import learning_rate

UPERNET = resolve(segmentation_recipes.ade20k_patchconvnet("upernet", "w.safetensors"))
SEMANTIC_FPN = resolve(segmentation_recipes.ade20k_patchconvnet("semantic_fpn", "w.safetensors"))
RESNET = resolve(segmentation_recipes.ade20k_resnet("w.pth", "torchvision"))


@pytest.mark.parametrize(
    ("config", "peak", "final", "power", "warm", "steps"),
    [
        (UPERNET, 6e-5, 0, 1, 1500, 160_401),
        (SEMANTIC_FPN, 6e-5, 0, 1, 1500, 80_832),
        (RESNET, 0.01, 1e-4, 0.9, 0, 160_401),
    ],
    ids=["upernet", "semantic_fpn", "resnet"],
)
def test_steps_and_rates(config, peak, final, power, warm, steps):
    epoch_steps = FACTS[config.data.name].train_examples // config.batch_size
    assert config.batch_size == 16 and config.epochs * epoch_steps == steps
    rate = learning_rate(config.optimizer, steps, epoch_steps)
    expected = {step: (peak - final) * (1 - step / steps) ** power + final for step in (2000, 40_000, steps - 1)}
    expected |= {0: peak * 1e-6, 750: peak / 2 * (1 - 750 / steps)} if warm else {0: peak}
    assert {step: float(rate(step)) for step in expected} == pytest.approx(expected, rel=1e-4)


def test_the_rest_of_the_recipes():
    adam, sgd = UPERNET.optimizer, RESNET.optimizer
    assert (adam.name, adam.beta1, adam.beta2, adam.adam_epsilon) == ("adamw", 0.9, 0.999, 1e-8)
    assert (adam.weight_decay, adam.weight_decay_mode) == (0.01, "decoupled")
    assert (sgd.name, sgd.momentum, sgd.weight_decay, sgd.weight_decay_exclude) == ("sgd", 0.9, 5e-4, ())
    assert SEMANTIC_FPN.optimizer == adam
    for config in (UPERNET, SEMANTIC_FPN, RESNET):
        data = config.data
        assert (data.train_sizes, data.image_size, data.crop) == (((512, 512),), (1024, 1024), "scaled")
        assert (data.scale_sides, data.scale_range, data.most_of_one_class) == ((512, 2048), (0.5, 2.0), 0.75)
        assert data.photometric and data.flip
        assert (config.model.init_part, config.parallel.batch_norm_groups) == ("backbone", 1)
        options = options_of(config, SegmentationOptions)
        assert (options.average, options.window, options.stride) == ("all", 512, 341)
        assert (options.scales, options.flip) == ((1.0,), False)


def test_what_the_heads_are():
    upernet = options_around("upernet_patchconvnet_s60", **UPERNET.model.options)
    assert (upernet.head_width, upernet.pooling_bins, upernet.auxiliary_weight) == (512, (1, 2, 3, 6), 0.4)
    assert (upernet.dropout_rate, upernet.auxiliary_width) == (0.1, 256)
    assert options_around("semantic_fpn_patchconvnet_s60", **SEMANTIC_FPN.model.options).head_width == 128
