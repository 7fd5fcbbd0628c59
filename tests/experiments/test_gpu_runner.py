"""Tests of the runner of the GPU benchmark, with parts that work, fail, hang and are killed while they write."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from experiments.benchmarks.gpu import record, runner, summary
from experiments.benchmarks.gpu.__main__ import PARTS
from experiments.benchmarks.gpu.runner import Part

SCRIPT = Path(__file__).with_name("parts_that.py")
ROOT = Path(__file__).parents[2]


def command(tmp_path, what):
    return [sys.executable, str(SCRIPT), what, str(tmp_path)]


def environment():
    return {**os.environ, "PYTHONPATH": str(ROOT)}


def is_running(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.thorough
def test_parts_that_fail_or_hang_are_named_and_the_others_go_on(tmp_path):
    parts = [Part("fail", "fail.json", 20), Part("hang", "hang.json", 2, most=2), Part("work", "work.json", 20)]
    log, told = tmp_path / "log.txt", []
    outcomes = runner.run_parts(
        parts, 60, lambda part, _: command(tmp_path, part.name), environment(), log, lambda now: told.append(len(now))
    )
    assert [outcome.status for outcome in outcomes] == ["failed", "stopped at its limit", "done"]
    assert outcomes[0].line == "the reason why"
    assert told == [1, 2, 3]
    assert json.loads((tmp_path / "fail.json").read_text()) == {"before": 1}
    assert json.loads((tmp_path / "work.json").read_text()) == {"done": True}
    assert not is_running(int((tmp_path / "child").read_text()))
    text = summary.text(tmp_path, outcomes, "the command", log)
    assert "| fail | failed |" in text and "the reason why" in text


def test_what_is_written_is_whole_whenever_the_writer_is_killed(tmp_path):
    file = tmp_path / "write.json"
    for _ in range(5):
        process = subprocess.Popen(command(tmp_path, "write"), env=environment())
        before = file.stat().st_mtime_ns if file.exists() else 0
        while not file.exists() or file.stat().st_mtime_ns == before:
            assert process.poll() is None
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
        process.wait()
        found = json.loads(file.read_text())["section"]
        assert found["first"] == found["last"]
    record.sweep(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["write.json"]


def test_a_section_keeps_the_others(tmp_path):
    record.Record(tmp_path / "r.json", "a").put(x=1)
    rows = record.Record(tmp_path / "r.json", "b")
    rows.add("rows", {"y": float("nan")})
    rows.add("rows", 3)
    assert json.loads((tmp_path / "r.json").read_text()) == {"a": {"x": 1}, "b": {"rows": [{"y": None}, 3]}}


def test_the_plan_fits_the_budget_and_names_few_files():
    names = {part.file for part in PARTS} | {"summary.md"}
    assert len(names) <= 8
    assert sum(part.seconds for part in PARTS) <= 480
    assert [part.name for part in PARTS][:6] == ["env", "correct", "attention", "steps", "timm", "profile"]


@pytest.mark.parametrize(
    ("parts", "remaining", "expected"),
    [
        ([("a", 15), ("b", 60), ("rest", 0)], 100, [40, 60, 0]),  # the first part gets time that is not planned
        ([("b", 60), ("rest", 0)], 90, [90, 0]),
        ([("rest", 0)], 30, [30]),
        ([("a", 100), ("b", 300)], 200, [50, 150]),  # too little time: all shares shrink alike
        ([("b", 300)], -3, [0]),
    ],
)
def test_limits(parts, remaining, expected):
    assert runner.limits([Part(name, "", seconds) for name, seconds in parts], remaining) == expected


def test_a_part_has_at_most_what_it_may_have():
    assert runner.limits([Part("a", "", 0, most=90), Part("b", "", 0)], 300) == [90, 0]


def test_parts_without_time_are_not_started(tmp_path):
    parts = [Part("hang", "", 0, most=1), Part("work", "work.json", 5)]
    started = time.monotonic()
    outcomes = runner.run_parts(
        parts, 1.0, lambda part, _: command(tmp_path, part.name), environment(), tmp_path / "log", lambda _: None
    )
    assert [outcome.status for outcome in outcomes] == ["not started", "not started"]
    assert time.monotonic() - started < 1
    assert not (tmp_path / "work.json").exists()
