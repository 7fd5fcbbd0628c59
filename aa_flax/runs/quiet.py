"""Failed saves in one line: Orbax and TensorStore print a traceback for every array and thread that was concerned."""

import contextlib
import logging
import sys
from collections.abc import Iterator
from pathlib import Path

from absl import logging as absl_logging


@contextlib.contextmanager
def without_tracebacks() -> Iterator[None]:
    """Leave out, while open, the errors that Orbax logs and the tracebacks of callbacks that come after its event loop.

    The exceptions themselves are raised as ever. `--verbosity=1` of a command shows all.
    """

    def shown(record: logging.LogRecord) -> bool:
        return absl_logging.get_verbosity() > absl_logging.INFO or "orbax" not in Path(record.pathname).parts

    def hook(unraisable: "sys.UnraisableHookArgs") -> None:
        error = unraisable.exc_value
        if not (isinstance(error, RuntimeError) and str(error) == "Event loop is closed"):
            before(unraisable)

    logger, before = absl_logging.get_absl_logger(), sys.unraisablehook
    logger.addFilter(shown)
    sys.unraisablehook = hook
    try:
        yield
    finally:
        logger.removeFilter(shown)
        if sys.unraisablehook is hook:
            sys.unraisablehook = before
