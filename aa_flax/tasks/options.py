"""Options of a task, from what a config has to the task's own dataclass."""

import dataclasses
from typing import Any, TypeVar, get_type_hints

from aa_flax.config.schema import Config
from aa_flax.config.values import ConfigError, as_type

Options = TypeVar("Options")


def options_of(config: Config, schema: type[Options]) -> Options:
    """Return `config.task.options` as a dataclass.

    Raises:
        ConfigError: an option that the dataclass has not, or of another type.
    """
    hints, given = get_type_hints(schema), config.task.options
    if unknown := sorted(set(given) - set(hints)):
        raise ConfigError(
            f"unknown config field 'task.options.{unknown[0]}'; known options of {config.task.name}: {', '.join(hints)}"
        )
    values: dict[str, Any] = {name: as_type(f"task.options.{name}", hints[name], given[name]) for name in given}
    assert dataclasses.is_dataclass(schema)
    return schema(**values)
