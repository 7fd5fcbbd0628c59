"""The one exception that every fault of data is reported by."""


class DataError(Exception):
    """Data that is missing, damaged or not what was asked for. The message is one line and names the file."""
