"""Imports that leave Python's logging to the program.

Orbax, and Grain with it, logs through absl at its import, which for this gives the root logger a handler. Where that
stays, the `logging.basicConfig(...)` of a program that has imported this library has no effect.
"""

import contextlib
import logging
from collections.abc import Iterator


@contextlib.contextmanager
def left_alone() -> Iterator[None]:
    """Take from the root logger, at the end, the handlers that it was given while this was open."""
    before = list(logging.root.handlers)
    try:
        yield
    finally:
        logging.root.handlers[:] = before
