"""Ending a run without progress: a hung collective or a dead disk would hold the machines for ever."""

import contextlib
import faulthandler
import logging
import sys
import threading
import time
from types import TracebackType

from aa_flax.alive import reported_to
from aa_flax.runs.exits import LOST, Leave


class Watchdog:
    """A thread that prints all stacks and ends the process with exit code 76 if there was no sign of life for a time.

    `aa_flax.alive` has the signs. Time in which the process did not run, because it or its machine was stopped and
    continued, does not count.

    Args:
        minutes: how long to wait, compilation included; 0 is for ever.
        leave: ends the process; None, for a caller whose process is not ours to end, prints stacks and a warning only.
    """

    def __init__(self, minutes: float, leave: Leave | None = None) -> None:
        self._seconds, self._leave = 60 * minutes, leave
        self._closed = threading.Event()
        self._silent = 0.0  # seconds since the last sign of life in which this process ran

    def alive(self) -> None:
        """Record that there was progress."""
        self._silent = 0.0

    def __enter__(self) -> "Watchdog":
        self.alive()
        self._listening = contextlib.ExitStack()
        self._listening.enter_context(reported_to(self.alive))
        if self._seconds:
            threading.Thread(target=self._watch, name="watchdog", daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._listening.close()
        self._closed.set()

    def _watch(self) -> None:
        pause = min(1.0, self._seconds / 4)
        last = time.monotonic()
        while not self._closed.wait(pause):
            now = time.monotonic()
            # A pause that took much longer than asked for is one in which the process was stopped.
            self._silent += min(now - last, 2 * pause)
            last = now
            if self._silent > self._seconds:
                self._hangs()

    def _hangs(self) -> None:
        with contextlib.suppress(OSError, ValueError, RuntimeError, AttributeError):  # stderr may be closed, or no file
            faulthandler.dump_traceback(sys.stderr, all_threads=True)
        told = f"no progress for {self._seconds:g} s"
        if self._leave is not None:
            self._leave(LOST, f"{told}; the run goes on from its last checkpoint")
        logging.getLogger("absl").warning("%s; the stacks of all threads were printed", told)
        self.alive()
