"""Output that never decides how a run ends: what a terminal, pipe or disk does not take is dropped."""

import contextlib
import os
import sys
from collections.abc import Iterator
from typing import Any

from absl import logging


class Display:
    """A text stream in front of another, which drops everything from the first error of that stream on.

    A terminal that is gone, a pipe that nobody reads and a full disk raise OSError; a closed stream raises ValueError.

    Args:
        stream: the stream to write to: anything with `write` and `flush`, as notebooks have it too, or None.
        ours: whether the process is ours, so that its file descriptor may be turned to the null device after an error;
            Python writes what is left in its buffer at its exit, which would otherwise fail once more.
    """

    def __init__(self, stream: Any, ours: bool = False) -> None:
        self._stream, self._ours = stream, ours
        self._dead = stream is None  # Python's where the descriptor was closed at its start

    def write(self, text: str) -> int:
        """Write text; at the end of a line also pass it on, so that an error is noticed here and not later."""
        if not self._dead:
            try:
                self._stream.write(text)
                if "\n" in text:
                    self._stream.flush()
            except (OSError, ValueError) as error:
                self._drop(error)
        return len(text)

    def flush(self) -> None:
        """Pass on what was written."""
        if not self._dead:
            try:
                self._stream.flush()
            except (OSError, ValueError) as error:
                self._drop(error)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def _drop(self, error: Exception) -> None:
        self._dead = True
        name = str(getattr(self._stream, "name", "output")).strip("<>")
        if self._ours:
            with contextlib.suppress(OSError, ValueError):
                null = os.open(os.devnull, os.O_WRONLY)
                os.dup2(null, self._stream.fileno())
                os.close(null)
        if name != "stderr":
            logging.warning("%s can no longer be written, and is left out from here on: %s", name, error)


@contextlib.contextmanager
def displayed() -> Iterator[None]:
    """Put a `Display` in front of standard output and standard error while open, in a process that is ours."""
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = (Display(stream, ours=True) for stream in before)
    try:
        yield
    finally:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        sys.stdout, sys.stderr = before


def say(text: str, file: Any = None) -> None:
    """Print a line to standard output or `file` if that is possible."""
    with contextlib.suppress(OSError, ValueError):
        print(text, file=file or sys.stdout, flush=True)
