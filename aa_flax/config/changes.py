"""Changes of config fields, `--config.FIELD=VALUE`, for commands that make their config themselves."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from absl import flags

from aa_flax.config.schema import field_names, unknown_field
from aa_flax.config.values import ConfigError
from aa_flax.typed import guessed, parse

FLAG_TYPE = "config fields"
_OPTION = re.compile(r"(model|task)\.options\.\w+")


class _Fields(flags.ArgumentParser[str]):
    """No value: the fields alone are given, each in a word of its own."""

    def parse(self, argument: Any) -> str:
        """Raise ValueError for a file."""
        raise ValueError("this command makes its config itself; --config.FIELD=VALUE changes it")

    def flag_type(self) -> str:
        """Return the word by which help and parsing know the flag."""
        return FLAG_TYPE


def define_changes(values: flags.FlagValues) -> None:
    """Define `--config.FIELD=VALUE` for a command that makes its config itself."""
    flags.DEFINE(_Fields(), "config", None, "Of the config that is made, --config.FIELD=VALUE changes a field", values)


def takes_changes(values: flags.FlagValues) -> bool:
    """Return whether a command takes changes of the config that it makes."""
    return "config" in values and values["config"].flag_type() == FLAG_TYPE


def take_changes(words: Sequence[str]) -> tuple[list[str], dict[str, Any]]:
    """Return a command line without its changes, and these: values by the dotted names of their fields.

    The values have the types of the fields; those of options of model and task are words still, see `with_changes`.

    Raises:
        ConfigError: an unknown field, a field without a value, or a word that is no value of its field.
    """
    known, rest, changes = field_names(), [], dict[str, Any]()
    for word in words:
        found = re.fullmatch(r"--?config\.([\w.]+)(?:=(.*))?", word, re.DOTALL)
        if not found:
            rest.append(word)
            continue
        name, value = found.groups()
        if value is None:
            raise ConfigError(f"{word}: needs a value, {word}=VALUE")
        if _OPTION.fullmatch(name):
            changes[name] = value
        elif name not in known or name in ("model.options", "task.options"):
            raise unknown_field(name)
        else:
            try:
                changes[name] = parse(known[name], value)
            except ValueError as error:
                raise ConfigError(f"flag --config.{name}={value}: {error}") from None
    return rest, changes


def options_among(changes: Mapping[str, Any], group: str, types: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options of `group`, "model" or "task", among changes, by name; words become values of their types.

    Args:
        changes: values by the dotted names of fields.
        group: "model" or "task".
        types: the type of each option by name; a word for an unknown one becomes what it looks like.

    Raises:
        ConfigError: a word is no value of its option.
    """
    start, found = f"{group}.options.", {}
    for name, value in changes.items():
        option = name.removeprefix(start)
        if not name.startswith(start):
            continue
        try:
            words = isinstance(value, str)
            found[option] = value if not words else parse(types[option], value) if option in types else guessed(value)
        except ValueError as error:
            raise ConfigError(f"config field {name!r} {error}") from None
    return found


def with_changes(config: Any, changes: Mapping[str, Any]) -> None:
    """Set the fields of a ConfigDict that changes name, those of options apart.

    Raises:
        ConfigError: an unknown field.
    """
    known = field_names()
    for name, value in changes.items():
        if _OPTION.fullmatch(name):
            continue
        if name not in known:
            raise unknown_field(name)
        group, _, last = name.rpartition(".")
        place = config
        for part in filter(None, group.split(".")):
            place = place[part]
        with place.ignore_type():
            place[last] = value
