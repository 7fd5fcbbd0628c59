"""Tests of runs whose images change their size from step to step."""

import dataclasses

import numpy as np
import pytest
from run_files import assert_same, final_state, rows

from aa_flax.analysis.programs import of_config
from aa_flax.data.train_sizes import size_of_step
from aa_flax.training import ConfigError, RunDirectory, resolve
from aa_flax.training.loop import train
from aa_flax.training.setup import set_up

SIZES = ((8, 8), (4, 12))


@pytest.mark.thorough
def test_a_run_that_goes_on_is_the_same_bit_for_bit(tiny_config, tmp_path):
    """Two epochs of four steps, at two sizes; it stops within the run, and relative tables fit either size."""
    tiny_config.epochs = 2
    tiny_config.data.train_sizes = SIZES
    assert {size_of_step(SIZES, 0, step) for step in range(4, 8)} == {*SIZES}  # what is left has both
    straight = train(resolve(tiny_config), tmp_path / "straight")
    tiny_config.stop_after_epoch = 1
    assert not train(resolve(tiny_config), tmp_path / "resumed").finished
    tiny_config.stop_after_epoch = 0
    resumed = train(resolve(tiny_config), tmp_path / "resumed")
    assert_same(final_state(tmp_path / "straight"), final_state(tmp_path / "resumed"))
    assert rows(tmp_path / "straight") == rows(tmp_path / "resumed")
    assert straight.scores.values == resumed.scores.values
    assert straight.setup.program.train_step._cache_size() == 2  # one program a size


def test_what_a_run_is_trained_and_evaluated_at(plain_config, tmp_path):
    plain_config.data.train_sizes = SIZES
    config = resolve(plain_config)
    setup = set_up(config, RunDirectory(tmp_path / "run"))
    with setup.train_batches(0) as batches:
        sizes = [next(batches)["image"].shape[1:3] for _ in range(6)]
    assert sizes == [size_of_step(SIZES, config.seed, step) for step in range(6)]
    assert setup.preprocessing.image_size == setup.preprocessing.view().size == (8, 8)
    assert resolve(dataclasses.asdict(config)) == config


def refused(config, tmp_path, words):
    with pytest.raises(ConfigError, match=words) as caught:
        set_up(resolve(config), RunDirectory(tmp_path / "run"))
    assert "\n" not in str(caught.value)


@pytest.mark.usefixtures("unchecked_shapes")
def test_what_the_network_refuses_is_told_before_anything_runs(plain_config, tmp_path):
    plain_config.model.name, plain_config.model.options = "patchconvnet_s60", {"width": 8, "depth": 1}
    plain_config.data.image_size = 32
    plain_config.data.train_sizes = ((32, 48), (40, 32))
    words = "'data.train_sizes' has 40x32, at which patchconvnet_s60 cannot be trained: .*16"
    refused(plain_config, tmp_path, words)
    plain_config.data.train_sizes = ((32, 48), (48, 32))
    set_up(resolve(plain_config), RunDirectory(tmp_path / "run"))


def test_padding_of_crops_fits_every_size(plain_config, tmp_path):
    plain_config.data.train_sizes = ((8, 8), (9, 3))
    plain_config.data.crop_padding = 4
    refused(plain_config, tmp_path, r"'data.crop_padding' must lie in \[1, 3\] for images of 9x3, got 4")


@pytest.mark.parametrize("pieces", [1, 2])
def test_batch_norm_of_one_value_is_refused(plain_config, tmp_path, pieces):
    """Its output would be its bias, and its running variance would fall to nothing."""
    plain_config.data.image_size = 4  # of which a Wide-ResNet's last map has one pixel
    plain_config.data.crop = "none"
    plain_config.batch_size = plain_config.eval_batch_size = 8 * pieces
    plain_config.optimizer.accumulation_steps, plain_config.parallel.batch_norm_groups = pieces, 8
    refused(plain_config, tmp_path, "'data.image_size' is 4x4, at which wide_resnet28_10 cannot .* one value a channel")


def test_a_plan_is_of_the_largest(plain_config):
    plain_config.data.train_sizes = ((8, 8), (6, 12), (9, 8))
    subject = of_config(resolve(plain_config))
    assert subject.image_size("train") == (6, 12) and subject.image_size("infer") == (8, 8)
    assert of_config(resolve(plain_config), (16, 16)).image_size("train") == (16, 16)


@pytest.mark.slow
def test_a_detector_at_two_sizes(detector_config, tmp_path):
    """Boxes lie on the canvas of their batch: what is learnt at two sizes is finite and finds its anchors."""
    detector_config.batch_size = detector_config.eval_batch_size = 8
    detector_config.data.train_sizes = ((48, 64), (64, 48))
    train(resolve(detector_config), tmp_path / "run")
    learned = [row for row in rows(tmp_path / "run") if row["split"] == "train"]
    assert learned and all(np.isfinite(row["loss"]) and row["positives"] > 0 for row in learned)
    assert learned[-1]["skipped"] == 0
