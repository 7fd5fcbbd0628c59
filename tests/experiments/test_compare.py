"""The script that trains the networks of a config file and compares them."""

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import forked
import pytest
from absl import flags

from aa_flax.config.schema import resolve
from experiments import compare, compare_report

_ROOT = Path(__file__).parents[2]


def by_command(arguments, environment):
    done = subprocess.run(
        [sys.executable, str(_ROOT / "experiments" / "compare.py"), *arguments],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]


def in_this_process(arguments, environment):
    """Run the script in this process, its trainings in processes that need not import the library."""

    def run(command, env, check):
        done = forked.run(*command[1:], environment={**env, **environment})
        assert check and command[0] == sys.executable and done.returncode == 0, done.stderr[-2000:]

    values = flags.FlagValues()
    compare.define(values)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compare, "subprocess", SimpleNamespace(run=run))
        compare.main(values(["compare.py", *arguments]), values)


@pytest.mark.parametrize(
    ("task", "call"),
    [
        ("detector", in_this_process),
        ("plain", by_command),
    ],
)
@pytest.mark.slow
def test_networks_of_a_file_are_trained_and_compared(task, call, tmp_path, request):
    config = request.getfixturevalue(f"{task}_config")
    config.epochs = 1
    file = tmp_path / "two.py"
    file.write_text(
        "import json\n"
        "MODELS = ('little', 'much')\n"
        "def get_config(name='little'):\n"
        f"    return {{**json.loads({json.dumps(dataclasses.asdict(resolve(config)))!r}), 'label': name}}\n"
    )
    arguments = [f"--config={file}", "--seeds=3", f"--workdir={tmp_path / 'runs'}"]
    for _ in range(2):  # the second time the runs are finished
        call(arguments, {"JAX_NUM_CPU_DEVICES": "1"})
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
