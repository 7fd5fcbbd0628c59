"""Values of config fields as the types that the schema gives them."""

import json
import math
from typing import Any, Literal, get_args, get_origin

from aa_flax.json_values import as_tuples


class ConfigError(ValueError):
    """A config that no run can have; the message is one line."""


def as_type(name: str, kind: Any, value: Any, form: str = "of type ") -> Any:
    """`value` as the field's type: an int serves as float and a list as tuple, nothing else changes.

    Raises:
        ConfigError: names the field, what it takes and the value.
    """
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is Literal:
        if value not in arguments:
            raise ConfigError(f"config field {name!r} must be one of {', '.join(map(repr, arguments))}, got {value!r}")
        return value
    if origin is tuple:
        if not isinstance(value, list | tuple):
            raise ConfigError(f"config field {name!r} must be a tuple, got {value!r}")
        return tuple(as_type(name, arguments[0], item, "a tuple of ") for item in value)
    if origin is dict:
        if not isinstance(value, dict):
            raise ConfigError(f"config field {name!r} must be a dictionary, got {value!r}")
        try:
            json.dumps(value)
        except (TypeError, ValueError) as error:
            raise ConfigError(f"config field {name!r} must hold plain values that JSON can keep: {error}") from None
        return {key: as_tuples(item) for key, item in value.items()}
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise ConfigError(f"config field {name!r} must be {form}{kind.__name__}, got {value!r}")
    if kind is float and not math.isfinite(value):
        raise ConfigError(f"config field {name!r} must be finite, got {value!r}")
    return value
