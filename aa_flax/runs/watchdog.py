"""Ending a run without progress: a hung collective or a dead disk would hold the machines for ever."""

import faulthandler
import sys
import threading
import time
from types import TracebackType

from aa_flax.runs.exits import LOST, leave


class Watchdog:
    """A thread that ends the process with exit code 76 if `alive` was not called for some time, and prints all stacks.

    Args:
        minutes: how long to wait, compilation included; 0 is for ever.
    """

    def __init__(self, minutes: float) -> None:
        self._seconds = 60 * minutes
        self._closed = threading.Event()
        self._last = time.monotonic()

    def alive(self) -> None:
        """Record that there was progress."""
        self._last = time.monotonic()

    def __enter__(self) -> "Watchdog":
        self.alive()
        if self._seconds:
            threading.Thread(target=self._watch, name="watchdog", daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closed.set()

    def _watch(self) -> None:
        while not self._closed.wait(min(1.0, self._seconds / 4)):
            if time.monotonic() - self._last > self._seconds:
                faulthandler.dump_traceback(sys.stderr, all_threads=True)
                leave(LOST, f"no progress for {self._seconds:g} s; the run goes on from its last checkpoint")
