"""The script that trains the networks of a config file and compares them."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from experiments import compare_report

_ROOT = Path(__file__).parents[2]
_SETTINGS = dict(plain="plain_config", detector="detector_config")


@pytest.mark.thorough
@pytest.mark.parametrize(
    "task", [pytest.param(it, marks=pytest.mark.slow if it == "plain" else ()) for it in _SETTINGS]
)
def test_networks_of_a_file_are_trained_and_compared(task, tmp_path, request):
    config = request.getfixturevalue(_SETTINGS[task])
    config.epochs = 1
    file = tmp_path / "two.py"
    file.write_text(
        "import json\n"
        "from aa_flax.training import default_config\n"
        f"from conftest import {task}\n"
        "MODELS = ('little', 'much')\n"
        "def get_config(name='little'):\n"
        f"    config = {task}({config.data.data_dir!r})\n"
        "    config.epochs = 1\n"
        "    config.optimizer.learning_rate *= 1.0 if name == 'little' else 2.0\n"
        "    return config\n"
    )
    command = [sys.executable, str(_ROOT / "experiments" / "compare.py"), f"--config={file}", "--seeds=3"]
    for _ in range(2 if task == "detector" else 1):  # the second time the runs are finished
        done = subprocess.run(
            [*command, f"--workdir={tmp_path / 'runs'}"],
            env={**os.environ, "PYTHONPATH": str(_ROOT / "tests"), "JAX_NUM_CPU_DEVICES": "1"},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr[-2000:]
    measured = json.loads((tmp_path / "runs" / "two.json").read_text())
    assert [run["model"] for run in measured["runs"]] == ["little", "much"]
    assert all(run["seed"] == 3 and run["commit"] for run in measured["runs"])
    assert "`much`" in (tmp_path / "runs" / "two.md").read_text()
    assert (tmp_path / "runs" / "two.png").stat().st_size > 1000


def test_top5_has_a_column_where_all_runs_have_it():
    run = dict(model="one", seed=0, commit="c" * 40, params=1234, flops=2e9, accuracy=0.5, examples=400, epochs=2)
    run |= dict(jax="0", data="mine", side=[48, 64], top5_accuracy=0.75)
    measured = {"runs": [run, {**run, "seed": 1, "top5_accuracy": 1.0}], "date": "D", "cores": 2, "command": "C"}
    lines = compare_report.table(measured).splitlines()
    assert lines[0].endswith("| each seed | top-5, mean |") and lines[1] == "|---|---|---|---|---|---|"
    assert lines[2] == "| `one` | 1,234 | 2.000 | 50.00 % | 50.00, 50.00 | 87.50 % |" and "mine at 48×64" in lines[4]
    del run["top5_accuracy"]  # as results of earlier versions
    assert "top-5" not in compare_report.table(measured)
