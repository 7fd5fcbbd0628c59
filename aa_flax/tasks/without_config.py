"""What a network is for, by its name alone, and a run that would train it for that: for plans without a config."""

from typing import Any

from aa_flax.config.schema import ConfigError
from aa_flax.data.facts import Facts
from aa_flax.models.registry import list_models, model_defaults, options_around
from aa_flax.tasks.table import TASKS


def task_of_network(name: str) -> str:
    """Return the name of the task, one of this library's, that a network is for; ConfigError if there is none."""
    for task in TASKS:
        if list_models(name, task=task):
            return task
    raise ConfigError(f"no network is called {name!r}; aa_flax.models.list_models() names them all")


def run_of_network(name: str) -> tuple[dict[str, Any], Facts]:
    """Return what of a config makes a run that trains a network, and what would be known of its images.

    These have three channels and the network's default number of classes; those with objects or label maps are not
    cropped.

    Raises:
        ConfigError: no such network.
    """
    task = task_of_network(name)
    classes, _ = model_defaults(name)
    fields: dict[str, Any] = {"model": {"name": name}, "task": {"name": task}}
    if task == "classification":
        return fields, Facts((None, None, 3), classes, 0)
    fields["data"] = {"crop": "none"}
    if task == "segmentation":
        return fields, Facts((None, None, 3), classes, 0)
    classes -= options_around(name).unused_columns
    return fields, Facts((None, None, 3), classes, 0, tuple(range(1, classes + 1)))
