"""The table of tasks, by the name that a config gives them."""

import importlib
from collections.abc import Callable, Mapping
from typing import Any

from aa_flax.config.schema import Config, ConfigError
from aa_flax.data.preprocessing import Preprocessing
from aa_flax.models.registry import model_options
from aa_flax.tasks.task import Task
from aa_flax.typed import field_types

TASKS = {"classification": "aa_flax.tasks.classification:Classification"}
"""From the name of a task to its module and class. Any other "module:Class" names a task outside this library."""


def task_class(name: str) -> Any:
    """Return the class of a task by its name, a key of `TASKS` or "module:Class"; ConfigError if there is none."""
    module, _, kind = TASKS.get(name, name).partition(":")
    if not kind:
        raise ConfigError(f"config field 'task.name' must be one of {', '.join(TASKS)} or module:Class, got {name!r}")
    try:
        return getattr(importlib.import_module(module), kind)
    except (ImportError, AttributeError) as error:
        raise ConfigError(f"config field 'task.name': {name!r} cannot be imported ({error})") from None


def task_options(name: str) -> dict[str, Any]:
    """Return the type of each option of a task by name, {} if its class names none; ConfigError for no such task."""
    schema = getattr(task_class(name), "options_type", None)
    return {} if schema is None else field_types(schema)


OPTIONS: Mapping[str, Callable[[str], Mapping[str, Any]]] = {"model": model_options, "task": task_options}
"""Functions from the name of a network or task to the types of its options, which `config_value` is called with."""


def make_task(config: Config, preprocessing: Preprocessing) -> Task:
    """Return the task of a config, for images that are prepared by `preprocessing`.

    Raises:
        ConfigError: there is no such task, or its options do not fit.
    """
    return task_class(config.task.name)(config, preprocessing)
