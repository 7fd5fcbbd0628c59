"""Tests that the watchdog ends a run that hangs and no other."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from aa_flax.alive import alive, reporting, reporting_growth
from aa_flax.runs.exits import LOST
from aa_flax.runs.watchdog import Watchdog
from aa_flax.training import loop, resolve, setup

HANG = """
import threading, time
from aa_flax.runs.exits import leave
from aa_flax.runs.watchdog import Watchdog
def waits_for_ever():
    time.sleep(60)
with Watchdog(0.01, leave):
    waits_for_ever()
"""


def test_what_hangs_ends_with_its_stacks():
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run([sys.executable, "-c", HANG], capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == LOST
    assert "in waits_for_ever" in done.stderr and "no progress for 0.6 s" in done.stderr


def watched(minutes, work):
    """Run `work` under a watchdog; return the codes with which it would have ended the process."""
    left = []
    with Watchdog(minutes, lambda code, reason: left.append(code)) as watchdog:
        work(watchdog)
    return left


def test_signs_of_life_reach_it_from_any_depth(caplog):
    def prepare(_):
        for _ in reporting(range(8)):  # longer in all than the watchdog waits
            time.sleep(0.15)

    assert watched(0.6 / 60, prepare) == []
    assert LOST in watched(0.2 / 60, lambda _: time.sleep(0.6))
    alive()  # nobody listens any more


def test_work_of_others_is_seen_by_what_it_writes(tmp_path):
    def write(_):
        with reporting_growth(tmp_path / "data", seconds=0.05):
            (tmp_path / "data").mkdir()
            for number in range(8):
                (tmp_path / "data" / str(number)).write_text("x" * number)
                time.sleep(0.15)

    def wait(_):
        with reporting_growth(tmp_path / "data", seconds=0.05):
            time.sleep(0.9)

    assert watched(0.6 / 60, write) == [] and LOST in watched(0.6 / 60, wait)


def test_a_stopped_and_continued_process_is_not_ended():
    """SIGSTOP, Ctrl-Z, a suspended job: longer stopped than the watchdog waits."""
    code = "import sys, time\nfrom aa_flax.runs.exits import leave\nfrom aa_flax.runs.watchdog import Watchdog\n"
    code += "with Watchdog(0.02, leave):\n    print('ready', flush=True); sys.stdin.readline()\n"
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    options = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "env": environment, "text": True}
    with subprocess.Popen([sys.executable, "-c", code], **options) as child:
        child.stdout.readline()
        child.send_signal(signal.SIGSTOP)
        time.sleep(2)
        child.send_signal(signal.SIGCONT)
        time.sleep(0.4)
        assert child.poll() is None
        child.communicate("\n", timeout=20)
    assert child.returncode == 0


def test_in_a_process_that_is_the_callers_it_only_warns(capfd, caplog):
    with Watchdog(0.2 / 60):
        time.sleep(0.5)
    assert "no progress for 0.2 s" in caplog.text and "test_watchdog.py" in capfd.readouterr().err


@pytest.mark.thorough
def test_a_hung_step_is_noticed_in_a_run(plain_config, tmp_path, monkeypatch):
    left, place_batch, steps = [], setup.place_batch, []

    def slow(batch, layout):
        steps.append(1)
        time.sleep(4 if len(steps) == 7 else 0)
        return place_batch(batch, layout)

    def leave(code, reason):
        left.append((code, len(steps)))

    plain_config.epochs = 2
    loop.train(resolve(plain_config), tmp_path / "compiled once", leave=leave)
    assert not left
    monkeypatch.setattr(setup, "place_batch", slow)
    plain_config.hang_minutes = 2 / 60
    loop.train(resolve(plain_config), tmp_path / "run", leave=leave)
    assert (LOST, 7) in left
