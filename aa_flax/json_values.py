"""Conversions of values that JSON changes when it writes and reads them."""

import math
from typing import Any


def as_tuples(value: Any) -> Any:
    """Return a value with all its lists, nested ones too, as tuples, which JSON had made into lists."""
    return tuple(map(as_tuples, value)) if isinstance(value, list | tuple) else value


def finite(value: Any) -> Any:
    """Return a value with infinite and NaN numbers, nested ones too, as None, because JSON has neither."""
    if isinstance(value, dict):
        return {name: finite(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
