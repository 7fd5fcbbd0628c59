"""Tests of what is read of a run directory."""

import dataclasses
import json
import os
from pathlib import Path

import pytest

from aa_flax.config.schema import resolve
from aa_flax.data.preprocessing import Preprocessing
from aa_flax.runs.directory import RunDirectory, RunDirectoryError

SEEN = dataclasses.asdict(Preprocessing((6, 8), 3, (0.5,) * 3, (0.25,) * 3, ("ant", "bee"), "float32", ""))


@pytest.mark.usefixtures("unchecked_shapes")
@pytest.mark.parametrize(
    "changes",
    [
        {"resize": "letterbox"},
        {"image_size": 3},
        {"interpolation": 1},
        {"crop_fraction": 0.0},
        {"more": 1},
        {"std": (0.25, 0.0, 0.25)},
        {"dtype": "object"},
    ],
)
def test_damaged_preprocessing_is_one_line(tmp_path, changes):
    (tmp_path / "config.json").write_text(json.dumps(dataclasses.asdict(resolve({}))))
    file = tmp_path / "preprocessing.json"
    file.write_text(json.dumps(SEEN))
    assert RunDirectory(tmp_path).read_preprocessing().image_size == (6, 8)
    file.write_text(json.dumps({**SEEN, **changes}))
    with pytest.raises(RunDirectoryError, match=r"preprocessing\.json: damaged") as error:
        RunDirectory(tmp_path).read_preprocessing()
    assert "\n" not in str(error.value)


def test_a_path_that_is_no_utf8_is_refused_before_anything_is_written(tmp_path):
    """The writer of checkpoints takes paths in UTF-8 only."""
    folder = tmp_path / os.fsdecode(b"run\xff")
    with pytest.raises(RunDirectoryError, match="checkpoints cannot be written to a path that is no UTF-8"):
        RunDirectory(folder).check(resolve({}))
    assert not folder.exists()


def test_a_relative_directory_stays_where_it_was_named(tmp_path, monkeypatch):
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    directory = RunDirectory(Path("runs/mine"))
    monkeypatch.chdir("elsewhere")
    directory.begin(resolve({}), Preprocessing.from_json(SEEN))
    assert (tmp_path / "runs" / "mine" / "config.json").is_file()
    assert directory.read_config() == resolve({})
