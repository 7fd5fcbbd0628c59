"""Locks on files, which keep processes apart; some network file systems have none."""

import fcntl
from typing import IO, Any

from absl import logging


def lock(file: IO[Any], *, wait: bool) -> bool:
    """Take the exclusive lock of an open file, which is held until the file is closed or the process ends.

    Args:
        file: the file.
        wait: wait for another process that holds the lock.

    Returns:
        Whether the lock is held: False, after a warning, on a file system without locks, as NFS may be.

    Raises:
        BlockingIOError: another process holds the lock, and `wait` is False.
    """
    try:
        fcntl.flock(file, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise
    except OSError as error:
        logging.warning(
            "%s: this file system has no locks (%s): nothing keeps a second process from working here at the same time",
            file.name,
            error.strerror or error,
        )
        return False
    return True
