"""JSON, of which every file and line of this library is made.

JSON has no infinity, no NaN and no tuples. Python's `json` writes the first two all the same, as words that other
programs refuse.
"""

import json
import math
from typing import Any


def as_tuples(value: Any) -> Any:
    """Convert a list, and all lists inside it, to tuples, because JSON has turned tuples into lists."""
    return tuple(map(as_tuples, value)) if isinstance(value, list | tuple) else value


def finite(value: Any) -> Any:
    """Return a value as JSON has it, at every depth.

    Infinity and NaN become None; tuples become lists; arrays and numbers of NumPy and JAX become lists and numbers of
    Python.
    """
    if isinstance(value, dict):
        return {name: finite(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return finite(value.tolist()) if hasattr(value, "tolist") else value


def to_json(value: Any, indent: int | None = None) -> str:
    """Return a value as JSON, on one line unless `indent` is given, with null for infinity and NaN.

    Raises:
        TypeError: the value holds something that JSON does not have, such as a set.
    """
    return json.dumps(finite(value), indent=indent, allow_nan=False)


def from_json(text: str) -> Any:
    """Return the value of a JSON text; the words Infinity and NaN, which older versions wrote, become None.

    Raises:
        ValueError: the text is no JSON.
    """
    return json.loads(text, parse_constant=lambda word: None)
