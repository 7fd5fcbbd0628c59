"""Signs of life: long work reports that it goes on, and whoever watches for a hang receives the reports.

Work such as preparing data is done far below the code that knows of the watch; the reports need no argument on the way.
"""

import contextlib
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TypeVar

Item = TypeVar("Item")

_listeners: list[Callable[[], None]] = []


def alive() -> None:
    """Report that work goes on; cheap, callable from any thread, and of no effect where nobody listens."""
    for listener in tuple(_listeners):
        listener()


@contextlib.contextmanager
def reported_to(listener: Callable[[], None]) -> Iterator[None]:
    """Call `listener` at each report while open."""
    _listeners.append(listener)
    try:
        yield
    finally:
        _listeners.remove(listener)


def reporting(items: Iterable[Item]) -> Iterator[Item]:
    """Yield the items and report at each."""
    for item in items:
        alive()
        yield item


@contextlib.contextmanager
def reporting_growth(folder: Path, seconds: float = 5.0) -> Iterator[None]:
    """Report, while open, whenever the files under `folder` have changed in number or size.

    This is for work of other packages, which reports nothing itself.

    Args:
        folder: the folder that the work writes to; it may not exist yet.
        seconds: how often to look.
    """
    closed = threading.Event()

    def watch() -> None:
        before = _extent(folder)
        while not closed.wait(seconds):
            now = _extent(folder)
            if now != before:
                alive()
            before = now

    thread = threading.Thread(target=watch, name="growth", daemon=True)
    thread.start()
    try:
        yield
    finally:
        closed.set()
        thread.join()


@contextlib.contextmanager
def told_if_slow(line: str, seconds: int | float = 3) -> Iterator[None]:
    """Print a line to standard error, while open, if the work takes longer than that: silence looks like a hang."""
    timer = threading.Timer(seconds, lambda: print(line, file=sys.stderr, flush=True))
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        timer.join()


def _extent(folder: Path) -> tuple[int, int]:
    """Return the number of files and their bytes; files may come and go meanwhile."""
    count = size = 0
    for file in folder.rglob("*"):
        with contextlib.suppress(OSError):
            size += file.stat().st_size
            count += 1
    return count, size
