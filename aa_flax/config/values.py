"""Conversion of the values of config fields to the types of the schema."""

import json
from typing import Any, get_origin

import numpy as np

from aa_flax import typed
from aa_flax.json_values import as_tuples


class ConfigError(ValueError):
    """A config that no run can have; the message is one line."""


def as_type(name: str, kind: Any, value: Any) -> Any:
    """Return the value of a field, converted to the field's type.

    A whole number is accepted for float and a list for tuple; NumPy's numbers become Python's. A dictionary must hold
    values that JSON can keep; its lists become tuples. Nothing else is converted.

    Args:
        name: dotted name of the field, for messages.
        kind: type of the field.
        value: the value, from a config file or a recorded config.

    Raises:
        ConfigError: another type; the message names the field, the accepted type and the value.
    """
    if get_origin(kind) is not dict:
        try:
            return typed.as_type(kind, value)
        except (TypeError, ValueError) as error:
            raise ConfigError(f"config field {name!r} {error}") from None
    if not isinstance(value, dict):
        raise ConfigError(f"config field {name!r} must be a dictionary, got {value!r}")
    try:
        value = _plain(value)
        json.dumps(value, allow_nan=False)  # null would be another value
        if numbers := [key for key in value if not isinstance(key, str)]:  # JSON would make words of them
            raise TypeError(f"keys must be strings, got {numbers[0]!r}")
    except (TypeError, ValueError) as error:
        raise ConfigError(f"config field {name!r} must hold plain values that JSON can keep: {error}") from None
    return {key: as_tuples(item) for key, item in value.items()}


def _plain(value: Any) -> Any:
    """Return a value with the numbers of NumPy in it, at any depth, as Python's, a float as it was written."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, np.bool_):
        return bool(value)
    if isinstance(value, np.integer | np.floating):
        return typed.as_type(int if isinstance(value, np.integer) else float, value)
    return value
