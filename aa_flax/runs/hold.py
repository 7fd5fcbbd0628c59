"""Keeping other processes from training in a run directory."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from aa_flax.data.locking import lock
from aa_flax.runs.errors import RunDirectoryError


class Hold:
    """The right to change a run directory: this one, a lock of the file system, is lost only with the process."""

    def check(self) -> None:
        """Raise RunDirectoryError if the right was found to be lost; it costs nothing."""

    def confirm(self) -> None:
        """Ask whether the right still holds; raise RunDirectoryError if it was lost."""


@contextlib.contextmanager
def locked_on_disk(folder: Path) -> Iterator[Hold]:
    """Lock a folder while open; the lock ends with the process, however it ends.

    Raises:
        RunDirectoryError: another process holds the lock, or the folder cannot be written.
    """
    with contextlib.ExitStack() as stack:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            file = stack.enter_context((folder / ".lock").open("w"))
        except OSError as error:
            raise RunDirectoryError(f"{folder} cannot be written: {error.strerror}") from error
        try:
            lock(file, wait=False)
        except BlockingIOError:
            raise RunDirectoryError(f"another process is training in {folder}") from None
        yield Hold()
