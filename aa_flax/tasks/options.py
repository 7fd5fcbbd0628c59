"""Options of a task: from the fields of a config to the task's own dataclass."""

from typing import TypeVar, get_type_hints

from aa_flax.config.fields import built
from aa_flax.config.schema import Config
from aa_flax.config.values import ConfigError

Options = TypeVar("Options")


def options_of(config: Config, schema: type[Options]) -> Options:
    """Return `config.task.options` as a dataclass.

    Raises:
        ConfigError: an option is unknown to the dataclass, of another type, or out of bounds.
    """

    def unknown(name: str) -> ConfigError:
        known = ", ".join(get_type_hints(schema))
        return ConfigError(f"unknown config field {name!r}; known options of {config.task.name}: {known}")

    return built(schema, config.task.options, "task.options.", unknown)
