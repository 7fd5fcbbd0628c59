"""Tests of runs that are used on other machines than they were trained on: other devices, and other folders."""

import json
from pathlib import Path

import forked
import numpy as np
import pytest
from PIL import Image

from aa_flax import data
from aa_flax.config.data import DataConfig
from aa_flax.data import DataError
from aa_flax.data.recorded import found_again
from aa_flax.runs.checkpoints import Checkpoints
from aa_flax.training import RunDirectory, resolve
from aa_flax.training.setup import set_up

ROOT = Path(__file__).parents[1]
OPTIONS = dict(depth=10, widen_factor=1, attention_stages=(3,), num_heads=2, upsilon=0.25, min_key_depth_per_head=3)


@pytest.fixture(scope="module")
def moved(tmp_path_factory):
    """Return the directory of a run on four times two devices whose data has moved, and where the data lies now."""
    folder, rng = tmp_path_factory.mktemp("moved"), np.random.default_rng(2)
    for index in range(12):
        file = folder / "photos" / ("train", "test")[index % 2] / ("ant", "bee")[index % 3 % 2] / f"{index}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (8, 8, 3), np.uint8)).save(file)
    before, now = folder / "before", folder / "now"
    data.load("image_folder/photos", data_dir=before, source_dir=folder / "photos")
    fields = {"name": "image_folder/photos", "data_dir": str(before), "image_size": 8, "crop": "none", "num_threads": 1}
    config = resolve(
        {
            "batch_size": 4,
            "eval_batch_size": 6 * 4,
            "model": {"options": OPTIONS},
            "data": fields,
            "optimizer": {"ema_decay": 0.5},
            "parallel": {"model_devices": 2, "fsdp": True},
        }
    )
    directory = RunDirectory(folder / "run")
    setup = set_up(config, directory)
    assert setup.layout.mesh.shape == {"data": 4, "model": 2}
    directory.begin(config, setup.preprocessing)
    with Checkpoints(directory.checkpoints) as checkpoints:
        checkpoints.save(setup.program.new_state())
    before.rename(now)
    return directory.path, now


@pytest.mark.thorough
def test_commands_on_one_device_and_another_folder(moved, tmp_path):
    run, now = moved
    Image.fromarray(np.full((9, 9, 3), 130, np.uint8)).save(tmp_path / "photo.png")
    commands = [
        ["evaluate", f"--workdir={run}"],
        ["evaluate", f"--workdir={run}", f"--data_dir={now}"],
        ["predict", f"--workdir={run}", f"--data_dir={now}", "--top=1", f"{tmp_path}/photo.png"],
    ]
    environment = {"PYTHONPATH": str(ROOT.parent), "JAX_NUM_CPU_DEVICES": "1", "JAX_PLATFORMS": "cpu"}
    done = forked.run(ROOT / "two_commands.py", json.dumps(commands), environment=environment, cwd=ROOT.parent)
    lines = done.stdout.splitlines()
    assert lines[-1] == "[2, 0, 0]", done.stdout + done.stderr
    found = next(json.loads(line) for line in lines if line.startswith("{"))
    assert found["examples"] == 6 and found["step"] == 0 and np.isfinite(found["loss"])
    assert lines[lines.index(f"{tmp_path}/photo.png") + 1].split()[-1] in ("ant", "bee")
    (error,) = done.stderr.splitlines()
    assert error.startswith("error: image_folder/photos is not prepared in any of --data_dir (not given), $TFDS_DATA_")
    assert error.endswith(f"(not set), the folder that the run has recorded ({run.parent / 'before'})")


def put(folder, name="aa_fashion_mnist"):
    """Make what a prepared data set is known by."""
    (folder / name / "1.0.0").mkdir(parents=True)
    (folder / name / "1.0.0" / "dataset_info.json").write_text("{}")
    return str(folder)


@pytest.mark.parametrize("here", [{"given", "variable", "recorded"}, {"variable", "recorded"}, {"recorded"}, {"given"}])
@pytest.mark.parametrize("give", [False, True])
def test_the_order_of_folders(tmp_path, monkeypatch, here, give):
    folders = {name: str(tmp_path / name) for name in ("given", "variable", "recorded")}
    for name in here:
        put(tmp_path / name)
    monkeypatch.setenv("TFDS_DATA_DIR", folders["variable"])
    fields = DataConfig(name="fashion_mnist", data_dir=folders["recorded"])
    order = ["given"] if give else ["variable", "recorded"]
    expected = next((folders[name] for name in order if name in here), None)
    if expected:
        found = found_again(fields, folders["given"] if give else "")
        assert (found.data_dir, found.name) == (expected, "fashion_mnist")
        return
    with pytest.raises(DataError) as error:
        found_again(fields, folders["given"] if give else "")
    message = str(error.value)
    assert f"$TFDS_DATA_DIR ({folders['variable']})" in message and f"recorded ({folders['recorded']})" in message
    assert f"--data_dir ({folders['given'] if give else 'not given'})" in message and "\n" not in message


def test_data_that_comes_with_the_library_is_always_there(tmp_path, monkeypatch):
    monkeypatch.delenv("TFDS_DATA_DIR", raising=False)
    fields = DataConfig(data_dir=str(tmp_path / "gone"))
    assert found_again(fields).data_dir == "~/tensorflow_datasets"  # nothing is made where another machine had it
    (tmp_path / "gone").mkdir()
    assert found_again(fields).data_dir == str(tmp_path / "gone")
    assert found_again(fields, "elsewhere").data_dir == "elsewhere"
    monkeypatch.setenv("TFDS_DATA_DIR", "by_variable")
    assert found_again(fields).data_dir == "by_variable"
