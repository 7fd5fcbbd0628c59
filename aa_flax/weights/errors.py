"""The exception that reports what is wrong with weights."""


class WeightsError(ValueError):
    """Weights that do not fit a network, or a file that cannot be read or written; the message lists all problems."""

    def __init__(self, message: str) -> None:
        """Take a message of one line or several, whose names come from files: what does not print is escaped."""
        super().__init__("\n".join(map(printable, message.split("\n"))))


def raise_all(problems: list[str], summary: str) -> None:
    """Raise WeightsError with a line for each problem, if there are any."""
    if problems:
        raise WeightsError("\n  ".join([f"{summary}; {len(problems)} problems:", *map(printable, problems)]))


def printable(text: str) -> str:
    """Return a text on one line, with escapes in place of what does not print and could steer a terminal."""
    return "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in text)
