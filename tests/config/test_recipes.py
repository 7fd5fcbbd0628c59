"""Tests of the recipes against the papers' numbers."""

import dataclasses

import numpy as np
import pytest

from aa_flax.config import recipes
from aa_flax.tasks.classification import ClassificationOptions
from aa_flax.tasks.options import options_of
from aa_flax.training import resolve
from aa_flax.training.schedules import learning_rate

IMAGENET_IMAGES = 1_281_167


def options(config):
    """Return the options of the task in a recipe."""
    return options_of(config, ClassificationOptions)


def rates(config, images):
    """Return the learning rate of every step of a run."""
    epoch_steps = images // config.batch_size
    total = config.epochs * epoch_steps
    schedule = learning_rate(config.optimizer, total, epoch_steps)
    return epoch_steps, lambda epoch: float(schedule(round(epoch * epoch_steps))), float(schedule(total - 1))


@pytest.mark.parametrize(("augmented", "batch", "peak", "decay"), [(True, 256, 0.2, 5e-4), (False, 1024, 0.8, 2e-4)])
def test_cifar(augmented, batch, peak, decay):
    config = resolve(recipes.cifar(augmented))
    assert (config.epochs, config.batch_size) == (500, batch)
    assert (config.optimizer.name, config.optimizer.momentum, config.optimizer.nesterov) == ("sgd", 0.9, False)
    assert config.optimizer.weight_decay == decay and config.optimizer.weight_decay_mode == "l2"
    assert (config.data.name, config.data.crop, config.data.flip) == ("cifar100", "pad", True)
    _, rate, last = rates(config, 50_000)
    assert rate(25) == pytest.approx(peak)  # 5 % of 500 epochs
    assert rate(12.5) == pytest.approx(peak / 2, rel=0.01)
    assert rate(262.5) == pytest.approx(peak / 2, rel=0.01)  # half of the cosine
    assert last < 1e-6


def test_imagenet_resnet():
    config = resolve(recipes.imagenet_resnet())
    assert (config.epochs, config.batch_size, config.data.name) == (100, 2048, "imagenet2012")
    assert (config.data.eval_split, config.data.image_size, config.data.crop) == ("validation", 224, "resized")
    assert (config.optimizer.weight_decay, config.optimizer.momentum) == (1e-4, 0.9)
    assert options(config).label_smoothing == config.optimizer.ema_decay == config.data.color_jitter == 0
    _, rate, last = rates(config, IMAGENET_IMAGES)
    peak = 0.128 * 8
    expected = {0: 0, 2.5: peak / 2, 5: peak, 29.9: peak, 30: peak / 10, 60: peak / 100, 80: peak / 1e3, 90: peak / 1e4}
    np.testing.assert_allclose([rate(epoch) for epoch in expected], list(expected.values()), rtol=2e-3)
    assert last == pytest.approx(peak / 1e4)
    assert resolve(recipes.imagenet_resnet(color_jitter=0.4)).data.color_jitter == 0.4


def test_imagenet_mnasnet():
    config = resolve(recipes.imagenet_mnasnet(False))
    assert (config.epochs, config.batch_size) == (350, 1024)
    optimizer = config.optimizer
    assert (optimizer.name, optimizer.rms_decay, optimizer.momentum, optimizer.epsilon) == ("rmsprop", 0.9, 0.9, 1e-3)
    assert (optimizer.weight_decay, options(config).label_smoothing, optimizer.ema_decay) == (1e-5, 0.1, 0.9999)
    assert config.model.options == dict(dropout_rate=0.2, batch_norm_momentum=0.99, batch_norm_epsilon=1e-3)
    _, rate, last = rates(config, IMAGENET_IMAGES)
    assert rate(2.5) == pytest.approx(0.032, rel=1e-3)
    assert rate(4.999) == pytest.approx(0.064, rel=1e-3)
    assert rate(5) == pytest.approx(0.064 * 0.97**2) and rate(7.21) == pytest.approx(0.064 * 0.97**3)
    assert last == pytest.approx(0.064 * 0.97**145)


def test_augmented_mnasnet_starts_at_half_and_ends_the_same():
    plain, augmented = (resolve(recipes.imagenet_mnasnet(value)) for value in (False, True))
    _, rate, last = rates(augmented, IMAGENET_IMAGES)
    assert rate(4.999) == pytest.approx(0.032, rel=1e-3)
    assert last == pytest.approx(rates(plain, IMAGENET_IMAGES)[2], rel=1e-4)  # one drop more or less: 5e-3
    # 0.97 · 2 ** (1 / 145), by hand.
    assert augmented.optimizer.decay_factor == pytest.approx(0.9746480, abs=1e-7)
    assert augmented.model == plain.model and augmented.data == plain.data


def test_imagenet_aw():
    config = resolve(recipes.imagenet_aw())
    assert (config.epochs, config.batch_size, config.optimizer.name) == (100, 256, "sgd")
    assert (config.optimizer.momentum, config.optimizer.weight_decay) == (0.9, 1e-4)
    _, rate, last = rates(config, IMAGENET_IMAGES)
    expected = {0: 0.1, 29.9: 0.1, 30: 1e-2, 60: 1e-3, 90: 1e-4}
    np.testing.assert_allclose([rate(epoch) for epoch in expected], list(expected.values()), rtol=1e-6)
    assert last == pytest.approx(1e-4)


RAND_M9_MSTD05_INC1 = ("rand", 2, 9.0, 0.5, True, 0.5)


def rand_augment(data):
    return (
        data.auto_augment,
        data.rand_augment_operations,
        data.rand_augment_magnitude,
        data.rand_augment_std,
        data.rand_augment_increasing,
        data.rand_augment_probability,
    )


def test_imagenet_patchconvnet():
    config = resolve(recipes.imagenet_patchconvnet())
    data, optimizer = config.data, config.optimizer
    assert (config.epochs, config.batch_size, optimizer.name) == (400, 2048, "lamb")
    assert dataclasses.astuple(options(config)) == ("binary_cross_entropy", True, 0, ())
    assert (optimizer.weight_decay, optimizer.weight_decay_mode, optimizer.clip_norm) == (0.05, "decoupled", 1.0)
    assert (optimizer.beta1, optimizer.beta2, optimizer.adam_epsilon, optimizer.ema_decay) == (0.9, 0.999, 1e-6, 0)
    assert rand_augment(data) == RAND_M9_MSTD05_INC1
    assert (data.random_erasing, data.random_erasing_fill, data.color_jitter) == (0.25, "noise", 0)
    assert (data.mixup, data.cutmix, data.cutmix_probability, data.repeats) == (0.8, 1.0, 0.5, 4)
    assert (data.image_size, data.crop, config.model.options) == (224, "resized", {})
    _, rate, last = rates(config, IMAGENET_IMAGES)
    assert rate(2.5) == pytest.approx(1.5e-3, rel=2e-3) and rate(5) == pytest.approx(3e-3)
    assert rate(202.5) == pytest.approx(1.5e-3, rel=1e-3) and last < 1e-9
    # Three copies, as DeiT has, with the nearest batch that devices divide into whole pairs.
    three = recipes.imagenet_patchconvnet()
    three.data.repeats, three.batch_size = 3, 2016
    assert resolve(three).batch_size % (2 * 16) == 0


def test_imagenet_21k_and_back():
    pretrained, tuned = resolve(recipes.imagenet21k_patchconvnet()), resolve(recipes.imagenet_from_21k("w.safetensors"))
    assert (pretrained.data.name, pretrained.data.eval_split) == ("image_folder/imagenet21k", "val")
    assert (tuned.data.name, tuned.model.init_from) == ("imagenet2012", "w.safetensors")
    for config, epochs, peak in ((pretrained, 240, 1e-3), (tuned, 50, 3e-4)):
        assert (config.epochs, config.batch_size, config.data.image_size) == (epochs, 2048, 224)
        assert (config.data.auto_augment, config.data.color_jitter) == ("three", 0.3)
        assert (config.data.mixup, config.data.cutmix, config.data.repeats) == (0, 1, 1)
        assert (config.optimizer.name, config.optimizer.weight_decay) == ("lamb", 0.02)
        assert (options(config).loss, options(config).label_smoothing) == ("cross_entropy", 0.1)
        _, rate, _ = rates(config, IMAGENET_IMAGES)
        assert rate(5) == pytest.approx(peak)


@pytest.mark.parametrize("size", [384, 512])
def test_imagenet_tuned(size):
    config = resolve(recipes.imagenet_tuned("w.safetensors", size))
    assert (config.epochs, config.batch_size, config.data.image_size) == (20, 512, size)
    assert (config.model.init_from, config.model.init_source) == ("w.safetensors", "aa_flax")
    assert rand_augment(config.data) == RAND_M9_MSTD05_INC1
    assert (config.data.mixup, config.data.cutmix, config.data.repeats, config.data.random_erasing) == (0.8, 1, 1, 0)
    assert (config.optimizer.name, config.optimizer.weight_decay, options(config).label_smoothing) == (
        "lamb",
        0.1,
        0.1,
    )
    _, rate, _ = rates(config, IMAGENET_IMAGES)
    assert rate(5) == pytest.approx(3e-4)


def test_importing_the_recipes_loads_the_config_alone():
    import subprocess
    import sys

    code = "import sys; import aa_flax.config.recipes; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    rooms = {name.split(".")[1] for name in loaded if name.startswith("aa_flax.")}
    assert rooms - {"json_values", "typed"} == {"config"}
    assert not loaded & {"jax", "flax", "grain", "matplotlib"}
