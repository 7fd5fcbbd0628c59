"""Conversion of values that JSON does not keep: tuples, which it returns as lists, and infinity and NaN."""

import math
from typing import Any


def as_tuples(value: Any) -> Any:
    """Convert a list, and all lists inside it, to tuples, because JSON has turned tuples into lists."""
    return tuple(map(as_tuples, value)) if isinstance(value, list | tuple) else value


def finite(value: Any) -> Any:
    """Return a value with infinity and NaN, which JSON lacks, replaced by None at every depth; tuples become lists."""
    if isinstance(value, dict):
        return {name: finite(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
