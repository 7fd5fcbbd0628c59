import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from aa_flax.config.schema import ConfigError, resolve
from aa_flax.data.augment import device as augment
from aa_flax.data.augment import erasing, mixing
from aa_flax.data.augment.host import make_host_augment
from aa_flax.data.augment.photometric import photometric_distortion
from aa_flax.data.augment.rand_augment import rand_augment
from aa_flax.data.augment.three_augment import three_augment
from aa_flax.data.preprocessing import Preprocessing
from aa_flax.tasks import make_task
from aa_flax.tasks.augmentation import make_placed_augment
from aa_flax.tasks.mixing import check_pairs
from aa_flax.training.loop import train

KEY = jax.random.key(11)
PREPROCESSING = Preprocessing((4, 6), 1, (0.4,), (0.2,), tuple("abc"), "float32", "")


@pytest.fixture
def batch(rng):
    return {"image": jnp.asarray(rng.integers(0, 256, (6, 4, 6, 1)), jnp.uint8), "label": jnp.arange(6) % 3}


@pytest.mark.parametrize(
    ("mixes", "expected"),
    [
        ({}, []),
        ({"mixup": 0.8}, [("mixup", 2, (0.8,))]),
        ({"cutmix": 1.0}, [("cutmix", 5, (1.0,))]),
        ({"mixup": 0.8, "cutmix": 1.0, "cutmix_probability": 0.4}, [("mixup_or_cutmix", 6, (0.8, 1.0, 0.4))]),
    ],
)
def test_everything_in_its_order_with_a_key_of_its_own(batch, monkeypatch, mixes, expected):
    called = []

    def record(module, name):
        def stub(key, images, *rest, **options):
            mixed = module is mixing
            called.append((name, np.asarray(jax.random.key_data(key)).tolist(), rest[mixed:] + tuple(options.values())))
            return (images, rest[0]) if mixed else images

        monkeypatch.setattr(module, name, stub)

    def no_flips(key, count):
        called.append(("flips", np.asarray(jax.random.key_data(key)).tolist(), ()))
        return jnp.zeros(count, bool)

    record(augment, "color_jitter")
    monkeypatch.setattr(augment, "flips", no_flips)
    for name in ("cutout", "random_erasing"):
        record(erasing, name)
    for name in ("mixup", "cutmix", "mixup_or_cutmix"):
        record(mixing, name)
    data = {"color_jitter": 0.3, "flip": True, "cutout": 2, "random_erasing": 0.7, **mixes}
    config = resolve({"batch_size": 6, "data": data, "task": {"options": {"label_smoothing": 0.1}}})
    images, targets, count = make_task(config, PREPROCESSING).prepare(batch, KEY)
    before = [("color_jitter", 3, (0.3,)), ("flips", 0, ()), ("cutout", 1, (2,))]
    before += [("random_erasing", 4, (0.7, "noise"))]
    assert called == [
        (name, np.asarray(jax.random.key_data(jax.random.fold_in(KEY, number))).tolist(), arguments)
        for name, number, arguments in before + expected
    ]
    np.testing.assert_allclose(images, (np.asarray(batch["image"]) / 255 - 0.4) / 0.2, rtol=1e-4, atol=1e-5)
    assert count == 6 and (targets["label"] == batch["label"]).all()
    np.testing.assert_allclose(targets["distribution"], 0.9 * np.eye(3)[batch["label"]] + 0.1 / 3, rtol=1e-6)


def test_on_the_host():
    grey = np.random.default_rng(0).integers(0, 256, (9, 11, 1), np.uint8)
    data = {"rand_augment_operations": 3, "rand_augment_magnitude": 5, "rand_augment_std": 0.5}
    data |= {"rand_augment_increasing": True, "rand_augment_probability": 0.5}
    assert make_host_augment(resolve({"data": data}), PREPROCESSING) is None
    found = make_host_augment(resolve({"data": {**data, "auto_augment": "rand"}}), PREPROCESSING)
    options = dict(operations=3, magnitude=5.0, magnitude_std=0.5, increasing=True, probability=0.5)
    expected = rand_augment(fill=(102,), **options)  # 0.4 of 255
    for seed in range(20):
        one, other = (function(grey, np.random.default_rng(seed)) for function in (found, expected))
        np.testing.assert_array_equal(one, other)
    assert make_host_augment(resolve({"data": {"auto_augment": "three"}}), PREPROCESSING) is three_augment


def test_devices_must_get_whole_pairs():
    check_pairs(resolve({"batch_size": 24}), 8)
    check_pairs(resolve({"batch_size": 32, "data": {"cutmix": 1.0}}), 8)
    with pytest.raises(ConfigError, match=r"'batch_size' \(24\) must divide by 2 times 8 devices where 'data.mixup'"):
        check_pairs(resolve({"batch_size": 24, "data": {"mixup": 1.0}}), 8)


@pytest.mark.slow
def test_a_run_of_what_deit_trains_by(tiny_config, tmp_path):
    tiny_config.epochs = 1
    tiny_config.model.name = "wide_resnet28_10"
    tiny_config.model.options = dict(depth=10, widen_factor=1, drop_path_rate=0.2)
    for group, values in (
        (tiny_config.data, dict(repeats=2, auto_augment="rand", random_erasing=0.5, mixup=0.8, cutmix=1.0)),
        (tiny_config.optimizer, dict(name="lamb", weight_decay_mode="decoupled")),
        (tiny_config.task.options, dict(loss="binary_cross_entropy", label_smoothing=0.0)),
    ):
        for name, value in values.items():
            setattr(group, name, value)
    outcome = train(resolve(tiny_config), tmp_path)
    assert outcome.finished and np.isfinite(outcome.scores.values["loss"])


def test_photometric_distortion_comes_before_padding_and_needs_colours():
    config = resolve({"data": {"photometric": True, "flip": False}})
    coloured = dataclasses.replace(PREPROCESSING, channels=3, mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.4))
    images = jnp.asarray(np.random.default_rng(0).integers(0, 256, (4, 6, 7, 3), np.uint8))
    placement = jnp.asarray([[0, 0, 5, 4, 4, 5, 4, 5]] * 4, jnp.float32)
    found, flips = jax.jit(make_placed_augment(config, coloured))(images, placement, KEY)
    changed = jax.jit(photometric_distortion)(jax.random.fold_in(KEY, 9), images)
    np.testing.assert_allclose(found[:, :4, :5], coloured.normalize(changed)[:, :4, :5], rtol=1e-5, atol=1e-5)
    assert not found[:, 4:].any() and not found[:, :, 5:].any() and not flips.any()
    with pytest.raises(ConfigError, match=r"'data.photometric' .*, and the images have 1 channel"):
        make_placed_augment(config, PREPROCESSING)
