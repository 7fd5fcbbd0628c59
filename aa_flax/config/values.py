"""Values of config fields as the types that the schema gives them."""

import json
from typing import Any, get_origin

from aa_flax import typed
from aa_flax.json_values import as_tuples


class ConfigError(ValueError):
    """A config that no run can have; the message is one line."""


def as_type(name: str, kind: Any, value: Any) -> Any:
    """`value` as the field's type: an int serves as float and a list as tuple, nothing else changes.

    Raises:
        ConfigError: names the field, what it takes and the value.
    """
    if get_origin(kind) is not dict:
        try:
            return typed.as_type(kind, value)
        except (TypeError, ValueError) as error:
            raise ConfigError(f"config field {name!r} {error}") from None
    if not isinstance(value, dict):
        raise ConfigError(f"config field {name!r} must be a dictionary, got {value!r}")
    try:
        json.dumps(value)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"config field {name!r} must hold plain values that JSON can keep: {error}") from None
    return {key: as_tuples(item) for key, item in value.items()}
