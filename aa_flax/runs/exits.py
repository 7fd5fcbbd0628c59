"""Exit codes of a process whose command should be given again: a launcher restarts on 75 and 76."""

import os
import sys
from collections.abc import Callable
from typing import NoReturn

from aa_flax.literal import literal_lines

UNSAVED = 74
"""EX_IOERR: the last state could not be saved. The same command tries again, once there is room."""

SAVED = 75
"""EX_TEMPFAIL: the machine is taken away, or the user stopped the run. The state was saved if there was time."""

LOST = 76
"""A peer process died or a step hung: the run resumes from its last checkpoint."""

Leave = Callable[[int, str], NoReturn]
"""Function that ends the process with an exit code, for a reason, as `leave` does."""


def leave(code: int, reason: str) -> NoReturn:
    """Print the reason and end the process at once: other threads may be compiling, or waiting for ever."""
    try:
        print(literal_lines(reason), file=sys.stderr, flush=True)
    finally:  # stderr may be closed
        os._exit(code)
