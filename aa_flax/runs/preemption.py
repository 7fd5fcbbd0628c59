"""Stopping between two steps when the machine is taken away, or the user says so."""

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

import jax

from aa_flax.runs.display import say
from aa_flax.runs.exits import SAVED, Leave, leave
from aa_flax.runs.hosts import Meeting

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
"""The signals on which a run stops: a request to end, Ctrl-C, a terminal that is gone, and the warnings of schedulers.

Slurm sends the one that `--signal` names, usually SIGUSR1, before the time of a job is over.
"""


@contextlib.contextmanager
def leaving() -> Iterator[None]:
    """End the process at once with exit code 75 on any of the signals, for work that the same command does again."""

    def leave_at_once(number: int, frame: FrameType | None) -> None:
        leave(SAVED, f"{signal.Signals(number).name}: the same command goes on from here")

    with _handled_by(leave_at_once):
        yield


@contextlib.contextmanager
def _handled_by(handler: Callable[[int, FrameType | None], Any]) -> Iterator[None]:
    """Install a handler for the signals while open; restore the earlier ones then.

    A SIGHUP that is ignored stays so: `nohup` asks for that.
    """
    ignored = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    handled = [number for number in SIGNALS if not (ignored and number == signal.SIGHUP)]
    before = {number: signal.signal(number, handler) for number in handled}
    try:
        yield
    finally:
        for number, old in before.items():
            signal.signal(number, signal.SIG_DFL if old is None else old)  # None: the earlier handler was not Python's


class Preempted(Exception):
    """A signal ended training; the state was saved, and the same command resumes from it. The message is one line."""


class Preemption:
    """A watch for `SIGNALS`, on which the loop stops after its current step.

    With `leave`, the process ends with exit code 75 if the loop does not notice a signal in time, because the main
    thread compiles or waits for data: checkpoints on disk are complete at any time. A second signal does this at once.
    Without it, in a process that is the caller's, a second signal raises KeyboardInterrupt in the main thread, as soon
    as that runs Python code.

    With several processes a signal to one stops all of them at the same step. These handlers replace the one of
    `jax.distributed`, which handles SIGTERM only and has no time limit.

    Args:
        leave: ends the process; None leaves that to the caller.
        grace: seconds that the loop has to notice a signal.
    """

    def __init__(self, leave: Leave | None = None, grace: float = 20.0) -> None:
        self._leave, self._grace = leave, grace
        self._signal: int | None = None
        self._noticed = threading.Event()
        self._closed = threading.Event()
        self._meeting = Meeting() if jax.process_count() > 1 else None

    @contextlib.contextmanager
    def watching(self) -> Iterator["Preemption"]:
        """Install the handlers while open, and restore the earlier ones then; do nothing outside the main thread."""
        if threading.current_thread() is not threading.main_thread():
            yield self
            return
        # Python runs handlers only between two bytecodes of the main thread; it writes to the pipe at once.
        reader, writer = os.pipe()
        os.set_blocking(writer, False)
        wakeup = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
        threads = [threading.Thread(target=self._watch, args=(reader,), name="preemption", daemon=True)]
        if self._meeting:
            threads.append(threading.Thread(target=self._listen, args=(self._meeting,), name="meeting", daemon=True))
        for thread in threads:
            thread.start()
        try:
            with _handled_by(self._handle):
                yield self
        finally:
            signal.set_wakeup_fd(wakeup)
            self._noticed.set()
            self._closed.set()
            os.close(writer)
            for thread in threads:
                thread.join()
            os.close(reader)

    def agreed(self) -> bool:
        """Return whether to stop now; the same in all processes, which must call this equally often."""
        stops = self._meeting.over() if self._meeting else self._signal is not None
        if stops:
            self._noticed.set()
        return stops

    def check(self) -> None:
        """Raise Preempted if it is time to stop; for work that may be interrupted."""
        if self.agreed():
            raise self.error("during evaluation")

    def error(self, where: str) -> Preempted:
        """Return the exception to raise; `where` says at what point training stopped."""
        name = signal.Signals(self._signal).name if self._signal else "a signal to another process"
        return Preempted(f"{name} {where}: saved; the same command goes on from there")

    def _handle(self, number: int, frame: FrameType | None) -> Any:
        if self._signal is not None and self._leave is None:
            raise KeyboardInterrupt(f"a second signal, {signal.Signals(number).name}")
        self._signal = number

    def _watch(self, reader: int) -> None:
        waiting: threading.Timer | None = None
        while byte := os.read(reader, 1):
            if byte[0] not in SIGNALS:
                continue
            if waiting is not None:
                if self._leave is not None:
                    self._leave(SAVED, "a second signal")
                continue
            if self._meeting:
                self._meeting.call()
            waiting = self._give_time()
            more = "raises KeyboardInterrupt" if self._leave is None else "ends the process at once"
            say(f"stopping after this step; a second signal {more}", sys.stderr)
        if waiting is not None:
            waiting.cancel()

    def _listen(self, meeting: Meeting) -> None:
        while not self._closed.wait(0.5):
            if meeting.called():
                waiting = self._give_time()
                meeting.answer(2 * self._grace)
                self._closed.wait()
                waiting.cancel()

    def _give_time(self) -> threading.Timer:
        waiting = threading.Timer(self._grace, self._too_late)
        waiting.daemon = True
        waiting.start()
        return waiting

    def _too_late(self) -> None:
        if self._leave is not None and not self._noticed.is_set():
            self._leave(
                SAVED,
                f"no step ended within {self._grace:g} s of the signal; the run goes on from its last checkpoint, or "
                "begins anew if there is none yet",
            )
