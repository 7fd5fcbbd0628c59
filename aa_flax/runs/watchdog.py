"""A run that makes no progress is ended: a hung collective or a dead disk would hold the machines for ever."""

import faulthandler
import sys
import threading
import time
from types import TracebackType

from aa_flax.runs.exits import LOST, leave


class Watchdog:
    """Ends the process with exit code 76 when `alive` has not been called for some time; prints all stacks first.

    Args:
        minutes: of patience, compilation included; 0 is for ever.
    """

    def __init__(self, minutes: float) -> None:
        self._seconds = 60 * minutes
        self._closed = threading.Event()
        self._last = time.monotonic()

    def alive(self) -> None:
        """There was progress."""
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
