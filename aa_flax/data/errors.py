"""The exception that reports every fault of data, and how it quotes another."""

import re
from collections.abc import Sequence


class DataError(Exception):
    """Data that is missing, damaged or not what was asked for. The message is one line and names the file."""


class DataFaults(DataError):
    """Faults of a data set, of which there may be several: unlike others, this message has a line for each.

    Attributes:
        lines: those of the message, the first of which says how many there are.
    """

    def __init__(self, lines: Sequence[str]):
        super().__init__("\n".join(lines))
        self.lines = tuple(lines)

    def __reduce__(self) -> tuple[type, tuple[tuple[str, ...]]]:
        return type(self), (self.lines,)  # copies are made of the lines, not of the message


def one_line(error: Exception, most: int = 300) -> str:
    """Return the type and message of an exception as one line of at most `most` characters."""
    words = f"{type(error).__name__}: {error}".split()
    return re.sub(r" ?<_io\.BytesIO object at \w+>", "", " ".join(words))[:most]  # what Pillow calls bytes in memory
