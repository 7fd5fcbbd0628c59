"""Tests of signals: those of users, terminals and schedulers save; a library call never ends its caller's process."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from aa_flax.runs.exits import SAVED
from aa_flax.runs.preemption import SIGNALS, Preemption


@pytest.fixture(autouse=True)
def heard():
    """Let SIGHUP be heard, also where `nohup` runs the tests; processes that a test starts inherit it."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize("number", SIGNALS)
def test_each_signal_is_noted_and_the_earlier_handler_comes_back(number):
    before = signal.getsignal(number)
    with Preemption().watching() as preemption:
        assert not preemption.agreed()
        os.kill(os.getpid(), number)
        assert preemption.agreed()
        assert number.name in str(preemption.error("after step 2"))
    assert signal.getsignal(number) is before


def test_the_signals_of_terminals_and_schedulers_are_among_them():
    assert {signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2} == {*SIGNALS}


def test_nohup_keeps_its_meaning():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with Preemption().watching() as preemption:
            os.kill(os.getpid(), signal.SIGHUP)
            assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN and not preemption.agreed()
    finally:
        signal.signal(signal.SIGHUP, before)


STUCK = """
import signal, sys, time
from aa_flax.runs.exits import leave
from aa_flax.runs.preemption import Preemption
with Preemption({leave}, grace=0.5).watching():
    print("ready", flush=True)
    {wait}
"""
# The first waits in C for a mutex that it holds itself and never returns to Python, as during a compilation.
WAITS = [
    "import ctypes; c, m = ctypes.CDLL(None), ctypes.create_string_buffer(64); [c.pthread_mutex_lock(m) for _ in '12']",
    "time.sleep(60)",
]


def stuck(wait, leave, signals, number=signal.SIGTERM, pause=0.1):
    """Return the process that waits in `wait` and gets signals, its errors, and how long it took to end."""
    code = STUCK.format(wait=wait, leave=leave)
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as child:
        assert child.stdout.readline() == "ready\n"
        started = time.monotonic()
        for _ in range(signals):
            child.send_signal(number)
            time.sleep(pause)
        _, errors = child.communicate(timeout=20)
    return child, errors, time.monotonic() - started


@pytest.mark.few(1, thorough=2)
@pytest.mark.parametrize("wait", WAITS, ids=["in_c", "in_python"])
@pytest.mark.parametrize("signals", [1, 2])
def test_a_loop_that_does_not_notice_is_ended(wait, signals):
    child, errors, seconds = stuck(wait, "leave", signals)
    assert child.returncode == SAVED
    assert ("a second signal" if signals == 2 else "no step ended within 0.5 s") in errors
    assert seconds < 5


@pytest.mark.few(0, thorough=1)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1])
def test_without_leave_the_process_is_the_callers(number):
    """As in a notebook: the first signal is noted for the loop, however long it takes; a second one is an exception."""
    child, errors, _ = stuck("time.sleep(60)", "None", 2, number, pause=1)  # the first must be handled before
    assert child.returncode == -signal.SIGINT and "KeyboardInterrupt: a second signal, " + number.name in errors
    child, errors, seconds = stuck("time.sleep(1.5)", "None", 1, number)  # three times the grace
    assert child.returncode == 0 and seconds > 1 and "a second signal raises KeyboardInterrupt" in errors


def test_outside_the_main_thread_signals_are_left_alone():
    before, seen = signal.getsignal(signal.SIGTERM), []

    def look():
        with Preemption().watching() as preemption:
            seen.append((signal.getsignal(signal.SIGTERM), preemption.agreed()))

    thread = threading.Thread(target=look)
    thread.start()
    thread.join()
    assert seen == [(before, False)]


@pytest.mark.few(1, thorough=2)
@pytest.mark.parametrize("number", SIGNALS)
def test_work_that_is_done_again_is_left_at_once(number):
    code = "import time\nfrom aa_flax.runs.preemption import leaving\n"
    code += "with leaving(): print(1, flush=True); time.sleep(60)"
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, env=environment) as child:
        child.stdout.readline()
        child.send_signal(number)
        assert child.wait(timeout=20) == SAVED
