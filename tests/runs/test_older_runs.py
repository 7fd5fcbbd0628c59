"""Runs that commit 756416f began are read today.

`tests/fixtures/run_756416f` has two run directories of the config below, made by that commit on a CPU: one ended, one
stopped after the first of its two epochs. The loss and its smoothing were the optimizer's then, the sums of a log
window had other names, and the size of held-out images was no choice. Without the pictures, the events and the
compiled programs; the paths that Orbax wrote into commit_success.txt are taken out.
"""

import dataclasses
import json
from pathlib import Path

import forked
import jax
import numpy as np
import pytest
from archives import unpack
from flax import nnx
from PIL import Image

from aa_flax.config.schema import ConfigError, default_config, resolve
from aa_flax.runs.directory import RunDirectory, RunDirectoryError
from aa_flax.runs.metrics import TIMING, read_metrics
from aa_flax.training.loop import train
from aa_flax.training.trained import load_model

ROOT = Path(__file__).parents[1]

CONFIG = """
from aa_flax.training import default_config


def get_config():
    config = default_config()
    config.label = "tiny"
    config.epochs, config.batch_size, config.eval_batch_size = 2, 16, 8
    config.log_every_steps, config.keep_checkpoints = 3, 1
    config.model.name = "patchconvnet_s60"
    config.model.options = dict(width=8, depth=1, norm="batch")
    config.data.train_split, config.data.eval_split = "train[:64]", "test[:40]"
    config.data.image_size, config.data.crop, config.data.num_threads = 32, "none", 1
    config.optimizer.learning_rate, config.optimizer.ema_decay = 0.05, 0.5
    config.task.options.label_smoothing = 0.1  # was optimizer.label_smoothing
    return config
"""


def unpacked(name, folder):
    unpack(ROOT / "fixtures" / "run_756416f" / f"{name}.tar.xz", folder)
    return folder / name


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    return unpacked("finished", tmp_path_factory.mktemp("old"))


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    """The config as one writes it today."""
    made = {}
    exec(CONFIG, made)
    config = made["get_config"]()
    config.data.data_dir = str(tmp_path_factory.mktemp("tfds"))
    return resolve(config)


def rows(run):
    return [{k: v for k, v in row.items() if k not in TIMING} for row in read_metrics(run / "metrics.jsonl")]


def numbers(run):
    state = nnx.to_pure_dict(nnx.state(load_model(RunDirectory(run))[0]))
    return {jax.tree_util.keystr(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(state)}


def test_its_config_is_todays(finished, config):
    found = RunDirectory(finished).read_config()
    assert found == dataclasses.replace(config, data=dataclasses.replace(config.data, data_dir=""))


@pytest.mark.thorough
def test_a_stopped_run_ends_as_the_other_did(finished, config, tmp_path):
    stopped = unpacked("stopped", tmp_path)
    before = rows(stopped)
    outcome = train(config, stopped)
    assert outcome.finished and outcome.epoch == 2
    assert rows(stopped)[: len(before)] == before and len(before) == 3
    for row, expected in zip(rows(stopped), rows(finished), strict=True):
        assert row.pop("split") == expected.pop("split")
        if row["step"] == 8 and "grad_norm" not in row:  # what it did not score
            assert abs(row.pop("raw_loss") - row["loss"]) < 0.1 and 0 <= row.pop("raw_accuracy") <= 1
            assert all(0 <= row.pop(f"{start}top5_accuracy") <= 1 for start in ("", "raw_"))
        assert row == pytest.approx(expected, rel=1e-3)  # another processor rounds otherwise
    result = json.loads((finished / "result.json").read_text())
    assert outcome.scores.values["loss"] == pytest.approx(result["loss"], rel=1e-4)
    assert outcome.scores.details["confusion"] == result["confusion"]
    ours, theirs = numbers(stopped), numbers(finished)
    assert ours.keys() == theirs.keys() and len(ours) > 30
    for name, leaf in ours.items():
        np.testing.assert_allclose(leaf, theirs[name], rtol=1e-3, atol=1e-5, err_msg=name)


def test_another_loss_is_refused(config, tmp_path):
    stopped = unpacked("stopped", tmp_path)
    other = default_config()
    other.update(dataclasses.asdict(config))
    other.task.options.label_smoothing = 0.2
    words = "task.options was {'label_smoothing': 0.1} and is now {'label_smoothing': 0.2}"
    with pytest.raises(ConfigError, match=words):
        RunDirectory(stopped).check(resolve(other))


@pytest.mark.thorough
def test_commands_take_it_side_by_side(finished, config, tmp_path):
    """Four of the commands, one after another in a process that has imported all."""
    (tmp_path / "config.py").write_text(CONFIG)
    Image.fromarray(np.tile(np.arange(0, 240, 8, np.uint8), (40, 1))).save(tmp_path / "photo.png")
    again = ["train", f"--config={tmp_path}/config.py", f"--config.data.data_dir={config.data.data_dir}"]
    commands = [
        ["evaluate", f"--workdir={finished}", f"--config={tmp_path}/config.py", again[2]],
        ["predict", f"--workdir={finished}", "--top=3", f"{tmp_path}/photo.png"],
        ["checkpoints", "list", f"--workdir={finished}"],
        [*again, f"--workdir={finished}"],
    ]
    environment = {"PYTHONPATH": str(ROOT.parent), "JAX_NUM_CPU_DEVICES": "1", "JAX_PLATFORMS": "cpu"}
    done = forked.run(ROOT / "two_commands.py", json.dumps(commands), environment=environment, cwd=ROOT.parent)
    assert done.returncode == 0, done.stdout + done.stderr
    *lines, statuses = done.stdout.splitlines()
    assert statuses == "[0, 0, 0, 0]", done.stdout + done.stderr
    result = json.loads((finished / "result.json").read_text())
    found, printed = (json.loads(line) for line in lines if line.startswith("{"))
    assert found["accuracy"] == result["accuracy"] and found["step"] == 8
    assert found["loss"] == pytest.approx(result["loss"], rel=1e-4)
    assert printed.pop("workdir") == str(finished)
    assert printed == {name: result[name] for name in printed} and "confusion" in result.keys() - printed.keys()
    place = lines.index(f"{tmp_path}/photo.png")
    names = RunDirectory(finished).read_preprocessing().class_names
    for line in lines[place + 1 : place + 4]:
        share, name = line.split(" % ")
        assert name.strip() in names and 0 < float(share) < 100
    assert any(line.split()[0] == "8" and line.endswith("0.1000") for line in lines if line.strip())


def test_a_run_of_a_newer_version_is_told_in_one_line(finished, tmp_path):
    tree = json.loads((finished / "config.json").read_text())
    tree["data"]["sharpness"] = 1.0
    (tmp_path / "config.json").write_text(json.dumps(tree))
    with pytest.raises(RunDirectoryError, match=r"config.json, from another version .*unknown config field 'data.sha"):
        RunDirectory(tmp_path).read_config()
