"""What is wrong with a run directory."""


class RunDirectoryError(Exception):
    """A folder that is not a usable run directory; the message is one line."""
