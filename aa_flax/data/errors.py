"""The exception that reports every fault of data."""


class DataError(Exception):
    """Data that is missing, damaged or not what was asked for. The message is one line and names the file."""
