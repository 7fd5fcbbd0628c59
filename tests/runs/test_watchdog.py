"""Tests that the watchdog ends a run that hangs and no other."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from aa_flax.runs import watchdog
from aa_flax.runs.exits import LOST
from aa_flax.training import loop, resolve, setup

HANG = """
import threading, time
from aa_flax.runs.watchdog import Watchdog
def waits_for_ever():
    time.sleep(60)
with Watchdog(0.01):
    waits_for_ever()
"""


def test_what_hangs_ends_with_its_stacks():
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run([sys.executable, "-c", HANG], capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == LOST
    assert "in waits_for_ever" in done.stderr and "no progress for 0.6 s" in done.stderr


@pytest.mark.thorough
def test_a_hung_step_is_noticed_in_a_run(plain_config, tmp_path, monkeypatch):
    left, place_batch, steps = [], setup.place_batch, []

    def slow(batch, layout):
        steps.append(1)
        time.sleep(4 if len(steps) == 7 else 0)
        return place_batch(batch, layout)

    monkeypatch.setattr(watchdog, "leave", lambda code, reason: left.append((code, len(steps))))
    loop.train(resolve(plain_config), tmp_path / "compiled once")
    assert not left
    monkeypatch.setattr(setup, "place_batch", slow)
    plain_config.hang_minutes = 2 / 60
    plain_config.epochs = 2
    loop.train(resolve(plain_config), tmp_path / "run")
    assert (LOST, 7) in left
