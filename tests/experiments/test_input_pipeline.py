"""Tests of the benchmark of the input pipeline, on three small photographs."""

import argparse
import io
import tarfile

import numpy as np
import pytest
from PIL import Image

from experiments.benchmarks import input_pipeline


def jpeg(rng, height, width):
    buffer = io.BytesIO()
    Image.fromarray(rng.integers(0, 256, (height, width, 3), np.uint8)).save(buffer, "jpeg")
    return buffer.getvalue()


@pytest.fixture
def photographs(rng, tmp_path):
    """Return a folder with two photographs in an archive and one in a subfolder."""
    with tarfile.open(tmp_path / "archive.tar", "w") as archive:
        for name in ("a/1.jpg", "a/2.JPEG", "a/notes.txt"):
            content = jpeg(rng, 300, 330)
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    (tmp_path / "folder" / "deep").mkdir(parents=True)
    (tmp_path / "folder" / "deep" / "x.jpg").write_bytes(jpeg(rng, 260, 400))
    return tmp_path


def test_finds_photographs(photographs, tmp_path_factory):
    assert {name: len(images) for name, images in input_pipeline.jpegs(photographs).items()} == {
        "archive": 2,
        "folder": 1,
    }
    with pytest.raises(SystemExit, match="no JPEG file"):
        input_pipeline.jpegs(tmp_path_factory.mktemp("empty"))


def test_measures_each_input_and_stores_smaller(photographs, tmp_path_factory, monkeypatch):
    for name, value in (("RECORDS", 12), ("BATCH", 4), ("SIDE", 16), ("_WARM_UP", 1), ("_MEASURED", 2)):
        monkeypatch.setattr(input_pipeline, name, value)
    monkeypatch.setattr(input_pipeline, "HAS_TENSORFLOW", False)
    stored = input_pipeline.store(photographs, tmp_path_factory.mktemp("scratch"))
    sides = {
        name: min(input_pipeline.open_source(data["folder"])[0]["image"].shape[:2]) for name, data in stored.items()
    }
    assert sides == {
        "archive, as stored": 300,
        "archive, shorter side 256": 256,
        "folder, as stored": 260,
        "folder, shorter side 256": 256,
    }
    arguments = argparse.Namespace(rounds=3, seconds=0)
    rows = list(input_pipeline.measure(stored["archive, as stored"], 1, arguments))
    assert [row["input"] for row in rows] == ["aa_flax", "aa_flax, fast_decode"][: 1 + input_pipeline.HAS_FAST]
    for row in rows:
        assert row["rounds"] == 3 and row["images_per_cpu_second"] > 0
        assert "images/s and core" in input_pipeline.line({"records": "archive", **row})
