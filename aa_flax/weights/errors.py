"""What is wrong with weights."""


class WeightsError(ValueError):
    """Weights that do not fit a network, or a file that cannot be read; lists all that is wrong."""
