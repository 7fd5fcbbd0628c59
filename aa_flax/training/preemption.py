"""Stopping between two steps when the machine is taken away, or the user says so."""

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Any

import jax
from jax.experimental import multihost_utils

EXIT_CODE = 75
"""EX_TEMPFAIL: run the same command again. What a launcher restarts on."""

_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Preempted(Exception):
    """A signal ended training; the state was saved, and the same command goes on from there. One line."""


class Preemption:
    """Notes SIGTERM and Ctrl-C while it is open, for the loop to stop at its next step.

    What the loop does not notice in time, because the main thread compiles or waits for data, ends the process with
    `EXIT_CODE` all the same: checkpoints on disk are whole at any moment. So does a second signal, at once.

    With several processes JAX watches for SIGTERM itself and makes all of them stop at one step.

    Args:
        grace: seconds that the loop has to notice.
    """

    def __init__(self, grace: float = 20.0) -> None:
        self._grace = grace
        self._signal: int | None = None
        self._noticed = threading.Event()

    @contextlib.contextmanager
    def watching(self) -> Iterator["Preemption"]:
        """Install the handlers, and put back what was there; nothing outside the main thread."""
        if jax.process_count() > 1 or threading.current_thread() is not threading.main_thread():
            yield self
            return
        before = {number: signal.signal(number, self._handle) for number in _SIGNALS}
        # Python runs handlers only between two bytecodes of the main thread; the pipe is written to at once.
        reader, writer = os.pipe()
        os.set_blocking(writer, False)
        wakeup = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
        thread = threading.Thread(target=self._watch, args=(reader,), name="preemption", daemon=True)
        thread.start()
        try:
            yield self
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
            signal.set_wakeup_fd(wakeup)
            self._noticed.set()
            os.close(writer)
            thread.join()
            os.close(reader)

    def agreed(self, step: int) -> bool:
        """Whether to stop after `step`; the same on all hosts."""
        if jax.process_count() > 1:
            return bool(multihost_utils.reached_preemption_sync_point(step))
        if self._signal is not None:
            self._noticed.set()
        return self._signal is not None

    def check(self) -> None:
        """Preempted if a signal came; for work that one process may leave in the middle."""
        if jax.process_count() == 1 and self.agreed(-1):
            raise self.error("during evaluation")

    def error(self, where: str) -> Preempted:
        """What to raise."""
        name = signal.Signals(self._signal).name if self._signal else "SIGTERM"
        return Preempted(f"{name} {where}: saved; the same command goes on from there")

    def _handle(self, number: int, frame: FrameType | None) -> Any:
        self._signal = number

    def _watch(self, reader: int) -> None:
        waiting: threading.Timer | None = None
        while byte := os.read(reader, 1):
            if byte[0] not in _SIGNALS:
                continue
            if waiting is not None:
                _exit("a second signal")
            waiting = threading.Timer(self._grace, self._too_late)
            waiting.daemon = True
            waiting.start()
            print("stopping after this step; a second signal ends the process at once", file=sys.stderr, flush=True)
        if waiting is not None:
            waiting.cancel()

    def _too_late(self) -> None:
        if not self._noticed.is_set():
            _exit(f"no step ended within {self._grace:g} s of the signal; the run goes on from its last checkpoint")


def _exit(reason: str) -> None:
    print(reason, file=sys.stderr, flush=True)
    os._exit(EXIT_CODE)
