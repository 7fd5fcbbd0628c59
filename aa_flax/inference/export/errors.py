"""What goes wrong in an export."""


class ExportError(ValueError):
    """A network cannot be exported as it was asked for, or the file cannot be written."""
