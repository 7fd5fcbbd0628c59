"""The exception that reports what is wrong with weights."""


class WeightsError(ValueError):
    """Weights that do not fit a network, or a file that cannot be read or written; the message lists all problems."""


def raise_all(problems: list[str], summary: str) -> None:
    """Raise WeightsError with a line for each problem, if there are any."""
    if problems:
        raise WeightsError("\n  ".join([f"{summary}; {len(problems)} problems:", *problems]))
