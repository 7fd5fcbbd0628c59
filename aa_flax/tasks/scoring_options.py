"""Options of a task that may differ from those of a run when its network is scored or asked."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from absl import flags

from aa_flax.config.schema import Config, ConfigError
from aa_flax.tasks.table import task_class
from aa_flax.typed import field_types, parse


def define_scoring_options(values: flags.FlagValues) -> None:
    """Define the flag --option of a command."""
    text = "NAME=VALUE: an option of the task by which the network is used otherwise than the run scored it, such as "
    flags.DEFINE_multi_string("option", [], f"{text}flip=True or scales=0.5,1.0.", flag_values=values)


def parsed_options(config: Config, words: Sequence[str]) -> dict[str, Any]:
    """Return the values by name of words such as "flip=True".

    Raises:
        ConfigError: a word is no pair, or its value is none of that option.
    """
    found: dict[str, Any] = {}
    for word in words:
        name, equals, text = word.partition("=")
        if not equals:
            raise ConfigError(f"--option={word}: expected NAME=VALUE")
        types = field_types(task_class(config.task.name).options_type)
        try:
            found[name] = parse(types[name], text) if name in types else text
        except ValueError as error:
            raise ConfigError(f"--option={word}: {error}") from None
    return found


def scored_with(config: Config, options: Mapping[str, Any]) -> Config:
    """Return the config of a run with other options by which its network is used.

    Args:
        config: of the run.
        options: by name, each of those that the task names as its `scoring_options`.

    Raises:
        ConfigError: the task has no such option, or it is one of training.
    """
    allowed = scoring_options(config)
    for name in options:
        if name not in allowed:
            others = f"it has {', '.join(allowed)}" if allowed else "it has none"
            raise ConfigError(f"{name!r} is no option by which {config.task.name} is used after training; {others}")
    task = dataclasses.replace(config.task, options={**config.task.options, **options})
    return dataclasses.replace(config, task=task)


def scoring_options(config: Config) -> tuple[str, ...]:
    """Return the names of the options of a config's task that change how a trained network is used."""
    return tuple(getattr(task_class(config.task.name), "scoring_options", ()))
