"""Test of all parts of the GPU benchmark, rehearsed on the CPU with small shapes."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FILES = {"env", "correct", "attention", "steps", "timm", "profile", "extra"}


@pytest.mark.slow  # three minutes
def test_the_rehearsal_takes_every_part_to_its_end(tmp_path):
    command = [sys.executable, "-m", "experiments.benchmarks.gpu", f"--out={tmp_path / 'out'}", "--rehearse"]
    command += [f"--cache={tmp_path / 'cache'}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert {path.name for path in (tmp_path / "out").iterdir()} == {f"{name}.json" for name in FILES} | {"summary.md"}
    results = {name: json.loads((tmp_path / "out" / f"{name}.json").read_text()) for name in FILES}
    for name in FILES - {"extra"}:
        assert results[name]["rehearsal"] is True
        assert {"command", "commit", "versions", "device", "date"} <= set(results[name])

    rows = results["correct"]["rows"]
    passed = {name: [row["passed"] for row in rows if row["implementation"] == name] for name in ("paper", "folded")}
    assert all(passed["paper"]) and all(passed["folded"])
    others = [row for row in rows if not row["passed"]]
    assert others and all(row["implementation"] == "cudnn" and row["refused"] for row in others)

    steps = {row["label"]: row for row in results["steps"]["rows"]}
    assert steps["resnet50"]["train_ratio"] == 1
    for label in ("aa_resnet50_025 auto", "wide_resnet28_10", "aa_wide_resnet28_10 auto"):
        assert steps[label]["train_ms"] > 0 and steps[label]["steps_that_were_not_finite"] == 0
    assert "'cudnn'" in steps["aa_resnet50_025 cudnn"]["not_measured"]

    measured = {row["implementation"]: row["forward_ms"] for row in results["attention"]["rows"]}
    assert measured["paper"] > 0 and measured["cudnn"] is None
    assert len(results["profile"]["kernels"]) == 20
    assert results["extra"]["tests"]["failed"] == [] and results["extra"]["tests"]["skipped"]  # there is no GPU
    training = results["extra"]["training"]["rows"]
    assert [row["model"] for row in training] == ["plain", "aa", "se"]
    assert all(len(row["curve"]) == row["epochs"] == 1 for row in training)
