"""Tests of what becomes a run directory: only what is proved to be a run's is changed; the rest is named and kept."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import jax.numpy as jnp
import pytest
from run_files import state_with_many_blocks

from aa_flax.analysis import whole_run
from aa_flax.config.schema import ConfigError, default_config, resolve
from aa_flax.runs import checkpoints as checkpoints_module
from aa_flax.runs.birth import MARKER, foreign, is_run, mark
from aa_flax.runs.checkpoint_files import saved_steps
from aa_flax.runs.checkpoints import CheckpointError, Checkpoints
from aa_flax.runs.directory import RunDirectory, RunDirectoryError
from aa_flax.runs.manifest import NAME

CONFIG = resolve(default_config())


def contents(folder):
    """Return every file below a folder with its bytes."""
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


@pytest.mark.parametrize(
    "name",
    [
        "notes.txt",
        "run.json",
        "config.json",
        "metrics.jsonl",
        "result.json",
        "checkpoints/1000/data",
        "run/run.json",
        "a/b",
        "x.pt",
    ],
)
def test_a_folder_with_anything_of_others_is_refused_and_left_as_it_is(tmp_path, name):
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / name).write_text("mine")
    before = contents(tmp_path)
    with pytest.raises(RunDirectoryError, match=rf"not empty: it has {name.split('/')[0]}; choose another directory"):
        RunDirectory(tmp_path).check(CONFIG)
    assert contents(tmp_path) == before


def test_what_file_systems_shells_and_schedulers_put_there_is_no_hindrance(tmp_path):
    for folder in ("checkpoints", "lost+found", ".snapshot"):
        (tmp_path / folder).mkdir()
    for file in (".nfs0001", "nohup.out", "train.log", "slurm-12.err"):
        (tmp_path / file).write_text("words of a shell")
    (tmp_path / "tee'd").touch()
    RunDirectory(tmp_path).check(CONFIG)
    assert foreign(tmp_path / "not there") == []


def test_the_file_that_the_shell_opened_for_output_is_no_hindrance(tmp_path):
    code = f"from pathlib import Path; from aa_flax.runs.birth import foreign; p = Path({str(tmp_path)!r})\n"
    code += "print('begun', flush=True); (p / 'said').write_text(repr(foreign(p)))"
    with (tmp_path / "protocol").open("w") as out:
        environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
        subprocess.run([sys.executable, "-c", code], stdout=out, env=environment, check=True)
    assert (tmp_path / "protocol").read_text() == "begun\n" and (tmp_path / "said").read_text() == "[]"
    assert foreign(tmp_path) == ["protocol", "said"]


def test_the_marker_makes_a_run(tmp_path):
    directory = RunDirectory(tmp_path / "new")
    with directory.locked():
        directory.mark()
    (tmp_path / "new" / "notes.txt").write_text("of the user")
    directory.check(CONFIG)
    born = json.loads((tmp_path / "new" / MARKER).read_text())["born"]
    directory.mark(saved=True)
    directory.mark()
    marker = json.loads((tmp_path / "new" / MARKER).read_text())
    assert marker["born"] == born and marker["saved"] is True


@pytest.fixture
def older(tmp_path):
    """Return a run directory of a version without markers."""
    with Checkpoints(tmp_path / "checkpoints") as checkpoints:
        checkpoints.save(state_with_many_blocks())
    directory = RunDirectory(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({}))
    (tmp_path / "notes.txt").write_text("of the user")
    return directory


def test_a_config_beside_a_manifest_makes_a_run(older):
    assert is_run(older.path) and not (older.path / MARKER).exists()
    older.check(resolve({}))
    next((older.path / "checkpoints").glob(f"*/{NAME}")).unlink()
    assert not is_run(older.path)
    with pytest.raises(RunDirectoryError, match="is no run directory and not empty: it has checkpoints, config.json"):
        older.check(resolve({}))


@pytest.mark.parametrize(
    "manifest",
    ['{"manifest_version": 3}', "{}", '{"a": 1}', "[]", "", '{"a": {"bytes": 1, "sha256": "x"}}', '{"a": {}}'],
)
@pytest.mark.parametrize("name", ["2", "12", "9999", "0003"])
def test_a_manifest_of_another_program_vouches_for_nothing(tmp_path, manifest, name):
    state = state_with_many_blocks()
    other = tmp_path / name
    other.mkdir()
    (other / NAME).write_text(manifest)
    (other / "thesis.tex").write_text("mine")
    with Checkpoints(tmp_path, keep=1) as checkpoints:
        checkpoints.save(state)
        checkpoints.require(int(state.step))
        checkpoints.clean()
    assert saved_steps(tmp_path) == [int(state.step)]
    assert (other / "thesis.tex").read_text() == "mine"


def test_a_checkpoint_that_cannot_be_deleted_is_no_failed_save(tmp_path, monkeypatch, caplog):
    def refused(folder, step):
        raise PermissionError(13, "Permission denied")

    state = state_with_many_blocks()
    monkeypatch.setattr(checkpoints_module, "delete_checkpoint", refused)
    with Checkpoints(tmp_path, keep=1, failures=1) as checkpoints:
        for step in (8, 9, 10):
            object.__setattr__(state, "step", jnp.asarray(step, jnp.int32))
            checkpoints.save(state)
            checkpoints.require(step)
    assert saved_steps(tmp_path) == [8, 9, 10] and "could not be deleted: [Errno 13] Permission denied" in caplog.text


@pytest.mark.usefixtures("unchecked_shapes")
def test_a_directory_must_be_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("", " ", None, 3, b"run"):
        with pytest.raises(RunDirectoryError, match="must be named by a string or a Path, got"):
            RunDirectory(name)


@pytest.mark.parametrize("text", ["{}", '{"finished": true}', "[]", ""])
def test_a_result_without_its_fields_is_damaged(tmp_path, text):
    (tmp_path / "result.json").write_text(text)
    with pytest.raises(RunDirectoryError, match="without it the same command (of train )?makes it again"):
        whole_run.read_result(RunDirectory(tmp_path))


def test_what_has_no_manifest_is_kept_and_named_and_not_used(tmp_path, caplog):
    folder, state = tmp_path / "checkpoints", state_with_many_blocks()
    step = int(state.step)
    (folder / "1000").mkdir(parents=True)
    (folder / "1000" / "thesis.tex").write_text("mine")
    (folder / str(step)).mkdir()
    (folder / str(step) / "data").write_text("a copy that lost its manifest")
    (folder / "5.backup").mkdir()
    (folder / ".hidden").write_text("mine")
    before = contents(folder)
    with Checkpoints(folder) as checkpoints:
        assert checkpoints.latest_step is None
        assert f"{folder / '1000'} has no manifest: it is kept, and not used" in caplog.text
        with pytest.raises(CheckpointError, match=rf"checkpoints: {step}, 1000 without manifest"):
            checkpoints.restore(state)
        checkpoints.clean()
        assert contents(folder) == before
        checkpoints.save(state)
        checkpoints.wait()
        assert saved_steps(folder) == [step] and checkpoints.latest_step == step
    assert (folder / "1000" / "thesis.tex").read_text() == (folder / ".hidden").read_text() == "mine"
    assert (folder / f"{step}.unvouched-0" / "data").read_text() == "a copy that lost its manifest"
    assert (folder / "5.backup").is_dir()


@pytest.mark.parametrize(
    ("harm", "words"),
    [
        (lambda path: shutil.rmtree(path / "checkpoints"), "had checkpoints, and has none to go on from"),
        (lambda path: next((path / "checkpoints").glob(f"*/{NAME}")).unlink(), "without manifest.json"),
        (lambda path: (path / "result.json").write_text("{}"), "has a result and no checkpoint"),
    ],
    ids=["deleted", "manifest lost", "result only"],
)
def test_a_run_whose_checkpoints_are_gone_does_not_begin_anew_in_silence(tmp_path, harm, words):
    directory = RunDirectory(tmp_path)
    mark(tmp_path)
    directory.require_nothing_lost()  # as after a kill before the first checkpoint
    if "result" not in words:
        with Checkpoints(directory.checkpoints, saved=lambda: directory.mark(saved=True)) as checkpoints:
            checkpoints.save(state_with_many_blocks())
    harm(tmp_path)
    with pytest.raises(RunDirectoryError, match=f"{words}.*; to start over, choose another directory"):
        directory.require_nothing_lost()


def test_a_result_stands_for_its_config(tmp_path):
    """Without checkpoints too, which people delete to save space."""
    directory = RunDirectory(tmp_path)
    mark(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"seed": 1, "epochs": 3}))
    (tmp_path / "result.json").write_text(json.dumps({"accuracy": 0.5}))
    directory.check(resolve({"seed": 1, "epochs": 3, "keep_checkpoints": 5}))
    with pytest.raises(ConfigError, match="holds a run with another config: seed was 1 and is now 2, epochs was 3 and"):
        directory.check(resolve({"seed": 2, "epochs": 4}))
