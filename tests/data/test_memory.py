"""Tests of caches that would not fit into memory."""

import pytest

from aa_flax.data import DataError, array_source, memory
from aa_flax.data.memory import available_memory


@pytest.mark.parametrize(
    ("machine", "limits", "bytes_"),
    [
        ("MemTotal: 9000 kB\nMemAvailable: 4000 kB\n", {}, 4_096_000),
        ("MemAvailable: 4000 kB\n", {"job": "max"}, 4_096_000),
        ("MemAvailable: 4000 kB\n", {"job": "2000000"}, 2_000_000 - (900_000 - 300_000)),
        ("MemAvailable: 4000 kB\n", {"job": "max", "": "1000000"}, 400_000),  # that of the container around it
        ("MemAvailable: 4000 kB\n", {"job": "500000"}, 0),
        ("", {}, None),
    ],
)
def test_the_memory_of_machine_and_container(tmp_path, monkeypatch, machine, limits, bytes_):
    proc, cgroup = tmp_path / "proc", tmp_path / "cgroup"
    for folder in (proc / "self", cgroup / "job"):
        folder.mkdir(parents=True)
    (proc / "meminfo").write_text(machine)
    (proc / "self" / "cgroup").write_text("0::/job\n")
    for name, limit in limits.items():
        (cgroup / name / "memory.max").write_text(limit + "\n")
        (cgroup / name / "memory.current").write_text("900000\n")
        (cgroup / name / "memory.stat").write_text("anon 5\ninactive_file 300000\n")
    monkeypatch.setattr(memory, "_PROC", proc)
    monkeypatch.setattr(memory, "_CGROUP", cgroup)
    assert available_memory() == bytes_


def test_a_cache_that_does_not_fit_is_refused(toy, monkeypatch):
    height, width, channels = toy.image_shape
    bytes_ = len(toy) * height * width * channels
    monkeypatch.setattr(array_source, "available_memory", lambda: bytes_ - 1)
    with pytest.raises(DataError, match=r"toy: cached, its images take 0\.0 GB \(config field 'data\.cache'\)"):
        array_source.ArraySource.of(toy)
    for there in (bytes_, None):
        monkeypatch.setattr(array_source, "available_memory", lambda there=there: there)
        assert len(array_source.ArraySource.of(toy)) == len(toy)
