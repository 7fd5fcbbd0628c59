"""Tests of data sets in more shards than a process may have files open at first."""

import json
import subprocess
import sys

import pytest
from array_record.python.array_record_module import ArrayRecordReader, ArrayRecordWriter

from aa_flax.data import DataError, TolerantSource, load
from aa_flax.data.open_files import OpenFilesError
from aa_flax.data.placement import resized

READ = """
import resource, sys
from aa_flax.data import load
dataset = load("fashion_mnist", data_dir=sys.argv[1])
for limits in (24, 1000), (24, 24):
    source = None  # closes its files
    resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    source = dataset.split("train")
    try:
        print(len({source[index]["index"] for index in range(len(source))}))
    except Exception as error:
        print(type(error).__name__, error)
"""


@pytest.fixture
def sharded(fashion, tmp_path):
    """Return a data_dir with a training split of 23 examples in as many files."""
    folder = load("fashion_mnist", data_dir=tmp_path / "tfds", source_dir=fashion.folder).folder
    (whole,) = folder.glob("*-train.array_record-*")
    reader = ArrayRecordReader(str(whole))
    for place, record in enumerate(reader.read_all()):
        name = whole.name.replace("00000-of-00001", f"{place:05}-of-00023")
        writer = ArrayRecordWriter(str(folder / name), "group_size:1")
        writer.write(record)
        writer.close()
    reader.close()
    whole.unlink()
    info = json.loads((folder / "dataset_info.json").read_text())
    for split in info["splits"]:
        if split["name"] == "train":
            split["shardLengths"] = ["1"] * 23
    (folder / "dataset_info.json").write_text(json.dumps(info))
    return tmp_path / "tfds"


def test_the_limit_is_raised_as_far_as_the_process_may(sharded):
    command = [sys.executable, "-c", READ, str(sharded)]
    room, none = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    assert room == "23"
    assert none.startswith("OpenFilesError") and "too many open files; the split has 23" in none
    assert "may have 24 open in all" in none and "damaged" not in none


def test_no_example_is_replaced_for_want_of_files(sharded, monkeypatch):
    source = TolerantSource(load("fashion_mnist", data_dir=sharded).split("train"), 20)

    def read(records, index):
        raise RuntimeError("open() failed: Too many open files; opening somewhere")

    monkeypatch.setattr(type(source._source._records), "__getitem__", read)
    monkeypatch.setattr(type(source._source._records), "__getitems__", read)
    for ask in (lambda: source[3], lambda: source.__getitems__([1, 2]), lambda: source.part(3, resized((4, 4)))):
        with pytest.raises(OpenFilesError, match=r"-00003-of-00023|-00001-of-00023"):
            ask()
    assert not source.damaged and issubclass(OpenFilesError, DataError)
