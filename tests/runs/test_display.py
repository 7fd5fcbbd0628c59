"""Tests that output decides nothing: a closed pipe, a full disk and a terminal that is gone cost words, never a run."""

import errno
import io
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from aa_flax.runs.display import Display, say
from aa_flax.runs.progress import ProgressBar

ROOT = Path(__file__).parents[2]


class Broken(io.StringIO):
    """A stream that fails from its second write on, at the write or at the flush."""

    def __init__(self, error, at):
        super().__init__()
        self._error, self._at, self.calls = error, at, 0

    def write(self, text):
        self.calls += 1
        if self.calls > 1 and self._at == "write":
            raise self._error
        return super().write(text)

    def flush(self):
        if self.calls > 1 and self._at == "flush":
            raise self._error


ERRORS = [
    OSError(errno.EPIPE, "Broken pipe"),
    OSError(errno.ENOSPC, "No space"),
    OSError(errno.EIO, "gone"),
    ValueError,
]


@pytest.mark.parametrize("error", ERRORS, ids=["pipe", "disk", "terminal", "closed"])
@pytest.mark.parametrize("at", ["write", "flush"])
def test_a_stream_that_fails_is_dropped_once(error, at, caplog):
    stream = Broken(error, at)
    display = Display(stream)
    for number in range(4):
        assert display.write(f"line {number}\n") == 7
    display.flush()
    assert stream.getvalue().startswith("line 0\n") and stream.calls == 2
    assert caplog.text.count("can no longer be written, and is left out from here on") == 1
    say("a line", Broken(error, at))
    Display(None).write("a line\n")


def test_progress_goes_on_without_its_terminal(monkeypatch):
    stream = Broken(ERRORS[0], "write")
    monkeypatch.setattr(sys, "stdout", stream)
    with ProgressBar(total_steps=4, done=0, epochs=2) as progress:
        for step in range(4):
            progress.epoch(step, 1, "held-out accuracy 0.5")
            progress.update(step, 1, {"loss": 1.0}, 10.0)
    assert "epoch 1/2  held-out accuracy 0.5" in stream.getvalue()


WORK = """
import sys
from aa_flax.runs.display import displayed
with displayed():
    for number in range(20000):
        print("a line", number)
    print("an error", file=sys.stderr)
open(sys.argv[1], "w").write("done")
"""


@pytest.mark.few
@pytest.mark.parametrize("sink", ["head", "full disk", "closed"])
def test_a_process_ends_as_if_all_had_been_read(tmp_path, sink):
    command = [sys.executable, "-c", WORK, str(tmp_path / "file")]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    options = {"env": environment, "stderr": subprocess.PIPE, "text": True}
    if sink == "full disk":
        with Path("/dev/full").open("w") as full:
            done = subprocess.run(command, stdout=full, check=False, **options)
            code, errors = done.returncode, done.stderr
    else:
        with subprocess.Popen(command, stdout=subprocess.PIPE, **options) as child:
            if sink == "head":
                child.stdout.readline()
            child.stdout.close()
            errors = child.stderr.read()
            code = child.wait(timeout=60)
    assert code == 0 and (tmp_path / "file").read_text() == "done"
    assert errors.count("left out from here on") == 1 and "Traceback" not in errors and "Exception" not in errors


def test_a_vanished_terminal_is_a_signal_and_no_error(tmp_path):
    """The descriptors of a terminal whose other end is closed give EIO; SIGHUP is handled apart."""
    leader, follower = os.openpty()
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        os.close(leader)
        with os.fdopen(follower, "w") as stream:
            display = Display(stream, ours=True)
            assert display.write("a line\n") == 7 and display._dead
            display.write("another\n")
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.thorough
def test_a_training_whose_output_goes_to_a_full_disk_ends_with_its_result(plain_config, tmp_path):
    plain_config.epochs = 1
    (tmp_path / "config.py").write_text(f"def get_config():\n    return {plain_config.to_dict()!r}\n")
    command = [sys.executable, "-m", "aa_flax.train", f"--config={tmp_path}/config.py", f"--workdir={tmp_path}/run"]
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, cwd=ROOT, check=False, text=True)
    assert done.returncode == 0 and "Traceback" not in done.stderr
    assert json.loads((tmp_path / "run" / "result.json").read_text())["finished"]
    assert len((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()) == 3
