"""Tests of the sources that a run reads for a config."""

import dataclasses
import shutil

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict

from aa_flax.data import DataError, TolerantSource
from aa_flax.data.record_source import RecordSource
from aa_flax.training import ConfigError, RunDirectory, resolve
from aa_flax.training.loop import train
from aa_flax.training.setup import set_up


@pytest.mark.parametrize("cache", [False, True])
def test_a_budget_is_for_the_training_split_alone(tiny_config, tmp_path, cache):
    tiny_config.data.data_dir = str(shutil.copytree(tiny_config.data.data_dir, tmp_path / "tfds"))
    tiny_config.data.cache = cache
    set_up(resolve(tiny_config), RunDirectory(tmp_path / "run"))  # prepares the data, if no test has yet
    for path in (tmp_path / "tfds").rglob("*.array_record*"):
        content = bytearray(path.read_bytes())
        content[len(content) // 400] ^= 0x55  # among the first 50 records of either split
        path.write_bytes(content)
    tiny_config.data.corrupt_budget = 2
    with pytest.raises(DataError, match=r"-test\.array_record.*damaged record"):
        for _ in set_up(resolve(tiny_config), RunDirectory(tmp_path / "run")).eval_source:
            pass
    tiny_config.data.eval_split = "test[1000:1020]"
    setup = set_up(resolve(tiny_config), RunDirectory(tmp_path / "run"))
    assert isinstance(setup.train_source, TolerantSource) and len(list(setup.train_source)) == 70
    assert len(setup.train_source.damaged) == 1
    tiny_config.data.corrupt_budget = 0
    with pytest.raises(DataError, match=r"-train\.array_record.*damaged record"):
        list(set_up(resolve(tiny_config), RunDirectory(tmp_path / "run")).train_source)


def test_splits_that_share_examples_are_refused_unless_it_is_meant(tiny_config, tmp_path):
    directory = RunDirectory(tmp_path / "run")
    set_up(resolve(tiny_config), directory).check_splits()
    tiny_config.data.train_split, tiny_config.data.eval_split = "train[:70]", "train[60:100]"
    setup = set_up(resolve(tiny_config), directory)
    words = r"'data.train_split' \('train\[:70\]'\) and 'data.eval_split' \('train\[60:100\]'\) share 10 examples"
    with pytest.raises(ConfigError, match=words):
        setup.check_splits()
    with pytest.raises(ConfigError, match=words):
        train(resolve(tiny_config), directory.path)
    assert not directory.path.exists()
    tiny_config.data.allow_overlap = True
    dataclasses.replace(setup, program=dataclasses.replace(setup.program, config=resolve(tiny_config))).check_splits()


@pytest.mark.usefixtures("unchecked_shapes")
@pytest.mark.parametrize("form", [ConfigDict, dict, resolve, lambda config: config.to_dict()])
def test_train_takes_a_config_in_each_form(tiny_config, tmp_path, form):
    """In a notebook one gives `train` what `default_config` returns. A split that is too small ends it at once."""
    tiny_config.data.train_split = "train[:15]"
    with pytest.raises(DataError, match="batch_size is 16, expected 1 to 15"):
        train(form(tiny_config), str(tmp_path / "run"))
    with pytest.raises(ConfigError, match="a config must be a ConfigDict or a dictionary, got None"):
        train(None, str(tmp_path / "run"))


def test_balanced_classes_are_counted_on_the_training_split(tiny_config, tmp_path):
    tiny_config.task.options.class_weights = "balanced"
    setup = set_up(resolve(tiny_config), RunDirectory(tmp_path / "run"))
    labels = np.asarray([example["label"] for example in setup.train_source])
    counts = np.bincount(labels, minlength=10)
    batch = {"image": np.zeros((10, 8, 8, 1), np.uint8), "label": np.arange(10, dtype=np.int32)}
    _, targets, total = jax.jit(setup.program.task.prepare)(batch, jax.random.key(0))
    np.testing.assert_allclose(total, (70 / (10 * counts)).sum(), rtol=1e-5)
    # Each target has the smoothing of tiny_config.
    np.testing.assert_allclose(targets["distribution"], 70 / (10 * counts) * (0.9 * np.eye(10) + 0.01), rtol=1e-5)


@pytest.mark.parametrize("fault", [DataError("shard: example 0: label -1, expected 0 to 9"), DataError("no image")])
def test_a_held_out_split_that_cannot_be_read_ends_the_run_before_it_begins(tiny_config, tmp_path, monkeypatch, fault):
    def read(source, index):
        if "test" in source.name:
            raise fault
        return record(source, index)

    record = RecordSource._read_one
    monkeypatch.setattr(RecordSource, "_read_one", read)
    with pytest.raises(DataError, match=str(fault)):
        set_up(resolve(tiny_config), RunDirectory(tmp_path / "run"))
    assert not (tmp_path / "run").exists()
