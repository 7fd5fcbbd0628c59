"""Standard output of commands, whose faults are told from those of other files."""

import sys
from typing import Any


class OutputError(OSError):
    """Standard output cannot be written."""


class Output:
    """Standard output, whose errors are told from those of other files."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Write text; raise OutputError if that is not possible."""
        try:
            return self._stream.write(text)
        except OSError as error:
            raise OutputError(error.errno, error.strerror) from error

    def flush(self) -> None:
        """Pass on what was written; raise OutputError if that is not possible."""
        try:
            self._stream.flush()
        except OSError as error:
            raise OutputError(error.errno, error.strerror) from error

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def flush() -> None:
    """Pass on what was printed, so that an error is noticed here and not at the process's exit."""
    if sys.stdout is not None:
        sys.stdout.flush()
