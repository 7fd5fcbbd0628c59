"""The exception that reports what is wrong with weights."""


class WeightsError(ValueError):
    """Weights that do not fit a network, or a file that cannot be read or written; the message lists all problems."""
