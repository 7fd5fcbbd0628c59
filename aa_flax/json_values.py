"""What JSON changes of a value on its way out and back."""

import math
from typing import Any


def as_tuples(value: Any) -> Any:
    """Lists, which are what JSON makes of tuples, as tuples, however deep."""
    return tuple(map(as_tuples, value)) if isinstance(value, list | tuple) else value


def finite(value: Any) -> Any:
    """Infinite and NaN numbers as None, however deep: JSON has neither."""
    if isinstance(value, dict):
        return {name: finite(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
