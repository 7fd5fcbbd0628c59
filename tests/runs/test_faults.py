"""Tests of faults around a run, in which nothing may be lost or differ: damage, full disks, two runs, signals."""

import dataclasses
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from run_files import arrays, assert_same, final_state, flip, rows, state_with_many_blocks

from aa_flax.data import DataError
from aa_flax.runs.checkpoint_files import saved_steps
from aa_flax.runs.checkpoints import CheckpointError, Checkpoints
from aa_flax.runs.directory import RunDirectory, RunDirectoryError
from aa_flax.runs.manifest import NAME, damage
from aa_flax.runs.preemption import Preempted
from aa_flax.training import resolve
from aa_flax.training.loop import train


def at_step(step):
    state = state_with_many_blocks()
    params = {name: {"kernel": leaf["kernel"] + step} for name, leaf in state.params.items()}
    return dataclasses.replace(state, step=jnp.asarray(step, jnp.int32), params=params)


@pytest.fixture
def folder(tmp_path):
    """Return a folder with checkpoints of steps 3 and 5."""
    with Checkpoints(tmp_path / "checkpoints") as checkpoints:
        for step in (3, 5):
            checkpoints.save(at_step(step))
    return tmp_path / "checkpoints"


def truncate(file):
    file.write_bytes(file.read_bytes()[:-1])


def delete(file):
    file.unlink()


@pytest.mark.parametrize(
    ("harm", "words"),
    [(flip, "other contents"), (truncate, "bytes instead of"), (delete, "is missing")],
    ids=["flipped_bit", "truncated", "deleted"],
)
def test_damage_is_named_and_the_checkpoint_before_is_used(folder, caplog, harm, words):
    file = arrays(folder / "5")
    harm(file)
    with Checkpoints(folder) as checkpoints:
        assert checkpoints.latest_step == 3
        restored = checkpoints.restore(at_step(0))
    assert int(restored.step) == 3 and float(restored.params["block10"]["kernel"][0, 0]) == 13
    assert str(file.relative_to(folder / "5")) in caplog.text and words in caplog.text


def test_a_damaged_manifest_is_damage(folder):
    (folder / "5" / NAME).write_text('{"a": ')
    assert "cannot be checked" in damage(folder / "5")
    with Checkpoints(folder) as checkpoints:
        assert checkpoints.latest_step == 3


def test_nothing_but_damage_is_an_error_not_a_new_start(folder):
    for step in (3, 5):
        flip(arrays(folder / str(step)))
    with (
        Checkpoints(folder) as checkpoints,
        pytest.raises(CheckpointError, match="every checkpoint is damaged: .*/5: "),
    ):
        checkpoints.restore(at_step(0))


def test_what_was_cut_off_counts_for_nothing_and_is_cleaned_up(folder):
    (folder / "5").rename(folder / "5.unfinished")
    (folder / "5.unfinished" / NAME).unlink()  # killed before the manifest was written
    (folder / "7.unfinished.orbax-checkpoint-tmp").mkdir()  # killed during writing
    (folder / "8.orbax-checkpoint-tmp-12").mkdir()  # the same, in an earlier version
    (folder / ".deleted-1" / "model").mkdir(parents=True)  # killed during deletion
    (folder / f".7.unfinished.{NAME}.partial").write_text("{")
    assert saved_steps(folder) == [3]
    with Checkpoints(folder) as checkpoints:
        assert checkpoints.latest_step == 3
        checkpoints.clean()
        assert [child.name for child in folder.iterdir()] == ["3"]
        checkpoints.save(at_step(5))
    assert saved_steps(folder) == [3, 5]


def test_a_damaged_checkpoint_gives_way_to_a_new_one_of_its_step(folder):
    flip(arrays(folder / "5"))
    with Checkpoints(folder) as checkpoints:
        checkpoints.save(at_step(5))
        checkpoints.wait()
        assert checkpoints.latest_step == 5


def test_what_is_saved_is_the_state_of_the_call(tmp_path):
    """Saving continues in the background while a step, to which the state is donated, overwrites it."""
    import jax

    state = dataclasses.replace(at_step(4), params={"kernel": jnp.arange(4_000_000, dtype=jnp.float32)})
    overwrite = jax.jit(lambda state: jax.tree.map(lambda x: x * 0 - 1, state), donate_argnums=0)
    expected = np.arange(4_000_000, dtype=np.float32)
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(state)
        state = overwrite(overwrite(state))
        restored = checkpoints.restore(state)
    np.testing.assert_array_equal(restored.params["kernel"], expected)


def test_a_full_disk_costs_checkpoints_not_the_run_until_there_are_too_many(tmp_path, monkeypatch, caplog):
    with Checkpoints(tmp_path, failures=3) as checkpoints:
        checkpoints.save(at_step(1))
        checkpoints.wait()
        write = checkpoints._checkpointer.save

        def full(path, **arguments):
            (path.parent / f"{path.name}.orbax-checkpoint-tmp").mkdir()
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(checkpoints._checkpointer, "save", full)
        checkpoints.save(at_step(2))
        checkpoints.save(at_step(3))
        assert "checkpoint of step 3 was not saved (2 in a row): [Errno 28] No space left on device" in caplog.text
        assert saved_steps(tmp_path) == [1] and [child.name for child in tmp_path.iterdir()] == ["1"]
        monkeypatch.setattr(checkpoints._checkpointer, "save", write)
        checkpoints.save(at_step(4))
        checkpoints.wait()
        monkeypatch.setattr(checkpoints._checkpointer, "save", full)
        checkpoints.save(at_step(5))
        checkpoints.save(at_step(6))
        with pytest.raises(CheckpointError, match="3 checkpoints in a row could not be saved in .*No space left"):
            checkpoints.save(at_step(7))
        assert checkpoints.latest_step == 4


def test_a_save_that_fails_in_the_background_is_noticed(tmp_path, monkeypatch, caplog):
    with Checkpoints(tmp_path, failures=1) as checkpoints:
        finish = checkpoints._checkpointer.wait_until_finished

        def fail():
            finish()
            if threading.current_thread() is not threading.main_thread():
                raise OSError(28, "No space left on device")

        with monkeypatch.context() as patch:
            patch.setattr(checkpoints._checkpointer, "wait_until_finished", fail)
            checkpoints.save(at_step(1))
            with pytest.raises(CheckpointError, match="No space left"):
                checkpoints.wait()


def test_one_run_at_a_time(tmp_path):
    with RunDirectory(tmp_path).locked():
        code = f"from aa_flax.training import RunDirectory\nwith RunDirectory({str(tmp_path)!r}).locked(): pass"
        other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
        assert f"RunDirectoryError: another process is training in {tmp_path}" in other.stderr.replace(
            "aa_flax.runs.directory.", ""
        )
        with pytest.raises(RunDirectoryError, match="another process is training"), RunDirectory(tmp_path).locked():
            pass
    with RunDirectory(tmp_path).locked():
        pass


@pytest.fixture
def config(plain_config):
    """Return the config of the run `straight`."""
    plain_config.epochs = 2
    return plain_config


def assert_same_run(ours, straight):
    assert_same(final_state(ours), final_state(straight))
    assert rows(ours) == rows(straight)


def signalled(monkeypatch, module, name, call, number=signal.SIGTERM):
    """Send a signal to this process at the `call`-th call of a function."""
    calls, original = [], getattr(module, name)

    def wrapped(*arguments, **options):
        calls.append(None)
        if len(calls) == call:
            os.kill(os.getpid(), number)
        return original(*arguments, **options)

    monkeypatch.setattr(module, name, wrapped)


@pytest.mark.few(0, thorough=1)  # test_signals has the others
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_mid_epoch_and_the_same_call_goes_on(config, straight, tmp_path, monkeypatch, number):
    from aa_flax.training import setup

    with monkeypatch.context() as patch:
        signalled(patch, setup, "place_batch", 2, number)
        with pytest.raises(Preempted, match=f"{number.name} after step 2: saved; the same command goes on from there"):
            train(resolve(config), tmp_path / "stopped")
    assert saved_steps(tmp_path / "stopped" / "checkpoints") == [2]
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    train(resolve(config), tmp_path / "stopped")
    assert_same_run(tmp_path / "stopped", straight)


@pytest.mark.thorough
def test_a_signal_in_the_evaluation_costs_no_row(config, straight, tmp_path, monkeypatch):
    from aa_flax.training import scoring

    with monkeypatch.context() as patch:
        signalled(patch, scoring, "place_batch", 1)
        with pytest.raises(Preempted, match="in the evaluation after step 4"):
            train(resolve(config), tmp_path / "stopped")
    assert [row["split"] for row in rows(tmp_path / "stopped")] == ["train", "train"]
    train(resolve(config), tmp_path / "stopped")
    assert_same_run(tmp_path / "stopped", straight)


@pytest.mark.thorough
def test_damage_in_a_run_costs_only_the_steps_since(config, straight, tmp_path):
    config.stop_after_epoch = 1
    train(resolve(config), tmp_path / "run")
    config.stop_after_epoch = 0
    train(resolve(config), tmp_path / "run")
    checkpoints = tmp_path / "run" / "checkpoints"
    assert saved_steps(checkpoints) == [4, 8]
    flip(arrays(checkpoints / "8"))
    train(resolve(config), tmp_path / "run")
    assert_same_run(tmp_path / "run", straight)


@pytest.mark.thorough
def test_checkpoints_by_the_clock(config, straight, tmp_path):
    config.checkpoint_every_minutes = 1e-6
    config.keep_checkpoints = 9
    train(resolve(config), tmp_path / "run")
    assert saved_steps(tmp_path / "run" / "checkpoints") == [3, 4, 6, 8]
    assert_same_run(tmp_path / "run", straight)


def test_what_must_be_mounted_is_no_folder(tiny_config, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(RunDirectoryError, match="s3:/bucket/run: a run lies in a folder or in gs://BUCKET/PATH; mount"):
        train(resolve(tiny_config), Path("s3://bucket/run"))
    tiny_config.data.data_dir = "gs://bucket/data"
    with pytest.raises(DataError, match="data_dir: gs://bucket/data is no folder; a bucket must be mounted"):
        train(resolve(tiny_config), tmp_path / "run")
    assert not list(tmp_path.iterdir())
