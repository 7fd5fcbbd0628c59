"""What JSON changes of a value on its way out and back."""

from typing import Any


def as_tuples(value: Any) -> Any:
    """Lists, which are what JSON makes of tuples, as tuples, however deep."""
    return tuple(map(as_tuples, value)) if isinstance(value, list | tuple) else value
