"""How a process ends when the same command should be given again: the codes that a launcher restarts on."""

import os
import sys
from typing import NoReturn

SAVED = 75
"""EX_TEMPFAIL: the machine is taken away, or the user stopped the run; the state was saved if there was time."""

LOST = 76
"""A peer died or a step hung: the run goes on from its last checkpoint."""


def leave(code: int, reason: str) -> NoReturn:
    """End at once: other threads may be compiling, or wait for what never comes."""
    print(reason, file=sys.stderr, flush=True)
    os._exit(code)
