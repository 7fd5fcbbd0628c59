"""Tests that a save that fails is never a success: of the last state, of a farewell, at once or in the background."""

import os
import signal
import sys
import threading

import pytest
from run_files import assert_same, final_state, rows, state_with_many_blocks

from aa_flax.config import command_line
from aa_flax.runs.checkpoint_files import saved_steps
from aa_flax.runs.checkpoints import Checkpoints, NotSavedError, ocp
from aa_flax.runs.exits import SAVED, UNSAVED
from aa_flax.training import resolve, setup
from aa_flax.training.loop import train

FULL = OSError(28, "No space left on device")
TENSORSTORE = ValueError("RESOURCE_EXHAUSTED: Error writing \"a/0\" in ...: Failed to write [os_error_code='28']")


@pytest.fixture
def fill(monkeypatch):
    """Return a function that makes saving fail from now on: "at once", or "in the background"."""

    def fail(when, error=FULL):
        name = "save" if when == "at once" else "wait_until_finished"
        finish = getattr(ocp.AsyncCheckpointer, name)

        def raised(*arguments, **options):
            if when == "at once":
                raise error
            finish(*arguments, **options)
            if threading.current_thread().name == "checkpoint":
                raise error

        monkeypatch.setattr(ocp.AsyncCheckpointer, name, raised)

    return fail


@pytest.mark.parametrize("error", [FULL, TENSORSTORE], ids=["python", "tensorstore"])
@pytest.mark.parametrize("when", ["at once", "in the background"])
def test_what_is_required_is_on_disk_or_an_error(tmp_path, fill, caplog, monkeypatch, when, error):
    state = state_with_many_blocks()
    step = int(state.step)
    with Checkpoints(tmp_path) as checkpoints:
        with pytest.raises(
            NotSavedError, match=f"after step {step} could not be saved .*; no checkpoint is there; the"
        ):
            checkpoints.require(step)
        checkpoints.save(state)
        checkpoints.require(step)
        with monkeypatch.context():
            fill(when, error)
            later = state.with_items({**state.items()})
            object.__setattr__(later, "step", state.step + 1)
            checkpoints.save(later)
            with pytest.raises(
                NotSavedError, match=rf"No space left on device; the newest there is of step {step}; the"
            ):
                checkpoints.require(step + 1)
            assert saved_steps(tmp_path) == [step]
        monkeypatch.undo()
    assert caplog.text.count("was not saved") == 1 and "Traceback" not in caplog.text


def test_the_exit_status_is_one_of_its_own(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["train"])

    def main(argv, values):
        raise NotSavedError("nothing is on disk")

    with pytest.raises(SystemExit) as ended:
        command_line.run(main, expected=(NotSavedError,))
    assert ended.value.code == UNSAVED and UNSAVED not in (0, 1, 2, SAVED)


@pytest.mark.few(0, thorough=1)
@pytest.mark.parametrize("when", ["in the background", "at once"])
def test_a_run_whose_last_save_fails_is_not_finished_and_the_same_call_goes_on(
    plain_config, straight, tmp_path, fill, monkeypatch, when
):
    plain_config.epochs = 2
    config, folder = resolve(plain_config), tmp_path / "run"
    with monkeypatch.context() as patch:
        save = Checkpoints.save

        def until_the_last(self, state):
            if int(state.step) == 8:
                fill(when)
            save(self, state)

        patch.setattr(Checkpoints, "save", until_the_last)
        with pytest.raises(
            NotSavedError, match="after step 8 .*; the newest there is of step 4; the same command goes on"
        ):
            train(config, folder)
    monkeypatch.undo()
    assert saved_steps(folder / "checkpoints") == [4]
    train(config, folder)
    assert_same(final_state(folder), final_state(straight))
    assert rows(folder) == rows(straight)


@pytest.mark.thorough
def test_a_farewell_that_cannot_be_saved_does_not_say_saved(plain_config, tmp_path, fill, monkeypatch):
    place_batch, calls = setup.place_batch, []

    def signalled(*arguments):
        calls.append(1)
        if len(calls) == 2:
            fill("in the background")
            os.kill(os.getpid(), signal.SIGTERM)
        return place_batch(*arguments)

    monkeypatch.setattr(setup, "place_batch", signalled)
    with pytest.raises(
        NotSavedError, match="after step 2 could not be saved .*; no checkpoint is there; .* begins anew"
    ):
        train(resolve(plain_config), tmp_path / "run")
