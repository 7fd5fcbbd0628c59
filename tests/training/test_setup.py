"""Tests of the sources that a run reads for a config."""

import shutil

import pytest

from aa_flax.data import DataError, TolerantSource
from aa_flax.data.source import RecordSource
from aa_flax.training import RunDirectory, resolve
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
