"""The table of tasks, by the name that a config gives them."""

import importlib
import re
from collections.abc import Callable, Mapping
from typing import Any

from aa_flax.config.schema import Config, ConfigError
from aa_flax.data.preprocessing import Preprocessing
from aa_flax.models.registry import model_options
from aa_flax.tasks.contract import check_task
from aa_flax.tasks.task import Task
from aa_flax.typed import field_types

TASKS = {
    "classification": "aa_flax.tasks.classification:Classification",
    "detection": "aa_flax.tasks.detection:Detection",
    "segmentation": "aa_flax.tasks.segmentation:Segmentation",
}
"""From the name of a task to its module and class. Any other "module:Class" names a task outside this library."""


def task_class(name: str) -> Any:
    """Return the class of a task by its name, a key of `TASKS` or "module:Class"; ConfigError if there is none.

    The module must be importable where the command is started: it lies there, or its folder is in PYTHONPATH.
    """
    path = TASKS.get(name, name)
    if not re.fullmatch(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*", path):
        raise ConfigError(f"config field 'task.name' must be one of {', '.join(TASKS)} or module:Class, got {name!r}")
    module, _, kind = path.partition(":")
    try:
        found = getattr(importlib.import_module(module), kind)
    except (ImportError, AttributeError) as error:
        raise ConfigError(f"config field 'task.name': {name!r} cannot be imported ({error})") from None
    if not isinstance(found, type):
        raise ConfigError(f"config field 'task.name': {name!r} is not a class")
    return found


def task_options(name: str) -> dict[str, Any]:
    """Return the type of each option of a task by name, {} if its class names none; ConfigError for no such task."""
    schema = getattr(task_class(name), "options_type", None)
    return {} if schema is None else field_types(schema)


def option_schemas() -> dict[str, type]:
    """Return the dataclass of the options of each task of the library by name."""
    return {name: task_class(name).options_type for name in TASKS}


OPTIONS: Mapping[str, Callable[[str], Mapping[str, Any]]] = {"model": model_options, "task": task_options}
"""Functions from the name of a network or task to the types of its options, which `config_value` is called with."""


def make_task(config: Config, preprocessing: Preprocessing) -> Task:
    """Return the task of a config, for images that are prepared by `preprocessing`.

    Raises:
        ConfigError: there is no such task, its options do not fit, or it does not keep to `aa_flax.tasks.contract`.
    """
    name = config.task.name
    try:
        task = task_class(name)(config, preprocessing)
        check_task(name, task)
    except (TypeError, AttributeError) as error:
        raise ConfigError(f"config field 'task.name': {name!r} is not a task ({error})") from error
    return task
