"""Tests of the scripts that log to Weights & Biases and to MLflow, with modules that stand for theirs."""

import importlib
import json
import os
import shutil
import sys
from pathlib import Path

import forked
import pytest

from aa_flax.runs.metrics import MetricsLog, read_metrics
from aa_flax.training import RunDirectory

STAND_INS = Path(__file__).with_name("stand_ins")


def noted(file):
    return [json.loads(line) for line in file.read_text().splitlines()]


@pytest.fixture(params=["WandbLog", "MlflowLog"])
def log_of(request, tmp_path, monkeypatch):
    """Return the class of a log, with the stand-in of its package; what is called is in the folder's "noted"."""
    package = request.param.removesuffix("Log").lower()
    monkeypatch.setenv("NOTED", str(tmp_path / "noted"))
    monkeypatch.syspath_prepend(STAND_INS)
    for name in (package, f"experiments.with_{package}"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    yield getattr(importlib.import_module(f"experiments.with_{package}"), request.param)
    for name in (package, f"experiments.with_{package}"):
        sys.modules.pop(name)


def told(calls):
    """Return the logged values of each row, by step."""
    values = [(call[1].pop("step"), call[1]) for call in calls if call[0] == "log"]
    return values or [(call[2], call[1]) for call in calls if call[0] == "log_metrics"]


def test_every_row_arrives_in_one_run(log_of, straight, tmp_path):
    workdir = tmp_path / "mine"
    shutil.copytree(straight, workdir)
    rows = read_metrics(RunDirectory(straight).log)
    rows[1]["grad_norm"] = float("nan")
    (workdir / "metrics.jsonl").unlink()
    for part in (rows[:3], rows[3:]):  # as two processes, of which the second goes on
        log = log_of(workdir)
        file = MetricsLog(workdir, part[0]["step"], log)
        for row in part:
            file.write(**row)
        file.close()
        log.finish()
    expected = [
        (row["step"], {f"{row['split']}/{name}": value for name, value in row.items() if name not in ("step", "split")})
        for row in rows
    ]
    del expected[1][1]["train/grad_norm"]
    calls = noted(tmp_path / "noted")
    begun = [call for call in calls if call[0] in ("init", "start_run")]
    if begun[0][0] == "init":
        assert [call[1:3] for call in begun] == [[begun[0][1], "mine"]] * 2
        assert begun[0][3]["model.name"] == "wide_resnet28_10" and begun[0][3]["keep_checkpoints"] == 2
        assert ["define_metric", "eval/*", "step"] in calls and calls[-1] == ["finish"]
    else:
        assert begun == [["start_run", None, "mine"], ["start_run", "new1", "mine"]]
        assert [call[1]["epochs"] for call in calls if call[0] == "log_params"] == ["2"]
        assert calls[-1] == ["end_run", "FINISHED"]
    assert told(calls) == expected


@pytest.mark.few(0, thorough=1)
@pytest.mark.parametrize(("package", "ends"), [("wandb", "finish"), ("mlflow", "end_run")])
def test_the_script_trains_as_the_command_does(plain_config, tmp_path, package, ends):
    """A run that is stopped goes on, prints its result and sends it."""
    plain_config.epochs = 2
    (tmp_path / "config.py").write_text(
        "from conftest import plain\n"
        "def get_config():\n"
        f"    config = plain({plain_config.data.data_dir!r})\n"
        "    config.epochs = 2\n"
        "    return config\n"
    )
    paths = os.pathsep.join(map(str, (STAND_INS, Path(__file__).parents[1], Path(__file__).parents[2])))
    environment = {**os.environ, "PYTHONPATH": paths, "NOTED": str(tmp_path / "noted"), "JAX_NUM_CPU_DEVICES": "1"}
    command = ["-m", f"experiments.with_{package}", f"--config={tmp_path}/config.py", f"--workdir={tmp_path}/run"]
    command += ["--config.data.image_size=8,12"]  # height and width, in every part of a run
    for more in (["--config.stop_after_epoch=1"], []):
        done = forked.run(*command, *more, environment=environment)
        assert done.returncode == 0, done.stderr
        assert "on_metrics" not in done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    calls = noted(tmp_path / "noted")
    assert [step for step, _ in told(calls)] == [3, 4, 4, 6, 8, 8]
    assert [call[0] for call in calls].count(ends) == 2 and calls[-1][0] == ends
    assert "[8, 12]" in str(calls[:2]) or "(8, 12)" in str(calls[:2])  # the config
    sent = calls[-2]
    assert sent == ["log_artifact", "result.json"] or sent[1]["accuracy"] == result["accuracy"]
