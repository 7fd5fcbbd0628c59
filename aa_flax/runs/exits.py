"""Exit codes of a process whose command should be given again: a launcher restarts on them."""

import os
import sys
from typing import NoReturn

from aa_flax.literal import literal_lines

SAVED = 75
"""EX_TEMPFAIL: the machine is taken away, or the user stopped the run. The state was saved if there was time."""

LOST = 76
"""A peer process died or a step hung: the run resumes from its last checkpoint."""


def leave(code: int, reason: str) -> NoReturn:
    """Print the reason and end the process at once: other threads may be compiling, or waiting for ever."""
    print(literal_lines(reason), file=sys.stderr, flush=True)
    os._exit(code)
