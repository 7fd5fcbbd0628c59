"""Section 4 of Bello et al. (2019), number by number, from the fact sheet and not from the recipes."""

import numpy as np
import pytest

from aa_flax.training import recipes, resolve
from aa_flax.training.optimizers import learning_rate

IMAGENET_IMAGES = 1_281_167


def rates(config, images):
    """The learning rate of every step of a run."""
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
    assert config.optimizer.label_smoothing == config.optimizer.ema_decay == config.data.color_jitter == 0
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
    assert (optimizer.weight_decay, optimizer.label_smoothing, optimizer.ema_decay) == (1e-5, 0.1, 0.9999)
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
    assert last == pytest.approx(rates(plain, IMAGENET_IMAGES)[2], rel=1e-4)  # a drop too many or too few: 5e-3
    # 0.97 · 2 ** (1 / 145), by hand.
    assert augmented.optimizer.decay_factor == pytest.approx(0.9746480, abs=1e-7)
    assert augmented.model == plain.model and augmented.data == plain.data


def test_importing_the_recipes_loads_the_config_alone():
    import subprocess
    import sys

    code = "import sys; import aa_flax.training.recipes; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    assert {name for name in loaded if name.startswith("aa_flax.training.")} == {
        "aa_flax.training.config",
        "aa_flax.training.config_checks",
        "aa_flax.training.field_values",
        "aa_flax.training.recipes",
    }
    assert not loaded & {"jax", "flax", "grain", "matplotlib"}
