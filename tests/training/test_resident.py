"""Tests of data that is kept on the devices: steps equal those with images from the host, and runs resume."""

import re

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from aa_flax.data import DataError, IndexBatches
from aa_flax.data.augment import device as augment
from aa_flax.runs.directory import RunDirectory
from aa_flax.training import ConfigError, resolve
from aa_flax.training.loop import train
from aa_flax.training.setup import set_up


def test_every_epoch_is_a_permutation_of_its_own():
    batches = IndexBatches(10, batch_size=3, seed=5)
    epochs = [np.concatenate([next(batches)["index"] for _ in range(3)]) for _ in range(3)]
    assert all(len(set(epoch)) == 9 and set(epoch) <= set(range(10)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 3
    later = IndexBatches(10, batch_size=3, seed=5, start_step=4)
    np.testing.assert_array_equal(next(later)["index"], epochs[1][3:6])
    other = IndexBatches(10, batch_size=3, seed=6)
    assert next(other)["index"].tolist() != epochs[0][:3].tolist()


@pytest.mark.parametrize("count", [1, 2, 3])
def test_processes_share_each_batch(count):
    whole = IndexBatches(20, batch_size=6, seed=0, start_step=2)
    pieces = [
        IndexBatches(20, batch_size=6, seed=0, start_step=2, process_index=i, process_count=count) for i in range(count)
    ]
    for _ in range(4):
        parts = [next(piece)["index"] for piece in pieces]
        np.testing.assert_array_equal(np.concatenate(parts), next(whole)["index"])


def test_what_makes_no_batch():
    with pytest.raises(DataError, match="batch_size is 11, expected 1 to 10"):
        IndexBatches(10, batch_size=11, seed=0)
    with pytest.raises(ValueError, match="seed and start_step must be 0 or more"):
        IndexBatches(10, batch_size=2, seed=0, start_step=-1)


def test_random_crops_are_windows_of_the_padded_image(rng):
    images = rng.integers(1, 256, (64, 5, 7, 3), np.uint8)
    found = np.asarray(augment.random_crop(jax.random.key(0), jnp.asarray(images), 2, (9, 8, 7)))
    padded = np.empty((64, 9, 11, 3), np.uint8)
    padded[...] = (9, 8, 7)
    padded[:, 2:7, 2:9] = images
    starts = set()
    for image, crop in zip(padded, found, strict=True):
        fits = [(y, x) for y in range(5) for x in range(5) if (image[y : y + 5, x : x + 7] == crop).all()]
        assert len(fits) == 1
        starts |= set(fits)
    assert len(starts) > 18  # of 25 offsets


@pytest.fixture
def config(plain_config):
    plain_config.data.on_device = True
    plain_config.data.image_size = 0
    return plain_config


@pytest.mark.thorough
def test_the_step_is_that_of_images_from_the_host(config, tmp_path):
    config.data.crop = "none"
    setup = set_up(resolve(config), RunDirectory(tmp_path))
    batch = next(setup.train_batches(0))
    examples = [setup.train_source[index] for index in batch["index"].tolist()]
    images = np.stack([example["image"] for example in examples])
    labels = np.array([example["label"] for example in examples], np.int32)
    after = []
    with jax.set_mesh(setup.layout.mesh):
        for given in (setup.placed(batch), {"image": images, "label": labels}):
            after.append(setup.program.train_step(setup.program.new_state(), given))
    chex.assert_trees_all_close(after[0].params, after[1].params, rtol=1e-5, atol=1e-6)
    chex.assert_trees_all_equal(*(each.window["metrics"] for each in after))


@pytest.mark.thorough
def test_a_run_goes_on_and_sends_no_images_between_devices(config, tmp_path):
    config.epochs, config.stop_after_epoch = 2, 1
    train(resolve(config), tmp_path)
    config.stop_after_epoch = 0
    assert train(resolve(config), tmp_path).finished
    setup = set_up(resolve(config), RunDirectory(tmp_path / "other"))
    program = setup.program
    with jax.set_mesh(setup.layout.mesh):
        text = (
            program.train_step.lower(program.new_state(), setup.placed(next(setup.train_batches(0))))
            .compile()
            .as_text()
        )
    assert not re.search(r"all-gather|all-to-all|collective-permute", text)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"crop": "resized", "image_size": 8}, "'data.on_device' excludes 'data.crop', which work on the host"),
        ({"auto_augment": "rand", "repeats": 2}, "excludes 'data.auto_augment', 'data.repeats', which"),
    ],
)
def test_what_works_on_the_host_is_excluded(changes, words):
    with pytest.raises(ConfigError, match=words):
        resolve({"data": {"on_device": True, **changes}})


@pytest.mark.thorough
def test_images_that_would_be_resized_are_refused(config, tmp_path):
    config.data.image_size = 8
    with pytest.raises(ConfigError, match="'data.on_device' needs images of one size"):
        set_up(resolve(config), RunDirectory(tmp_path))
