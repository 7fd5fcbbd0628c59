"""The exception that reports every fault of data, and how it quotes another."""

import re


class DataError(Exception):
    """Data that is missing, damaged or not what was asked for. The message is one line and names the file."""


def one_line(error: Exception, most: int = 300) -> str:
    """Return the type and message of an exception as one line of at most `most` characters."""
    words = f"{type(error).__name__}: {error}".split()
    return re.sub(r" ?<_io\.BytesIO object at \w+>", "", " ".join(words))[:most]  # what Pillow calls bytes in memory
