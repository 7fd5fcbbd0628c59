"""Tasks: what a network can be trained for."""

from aa_flax.tasks.table import OPTIONS, TASKS, make_task, option_schemas, task_class
from aa_flax.tasks.task import (
    Scorer,
    Scores,
    Task,
    begin,
    check_source,
    found,
    places,
    recorded_display,
    result_of,
    rows_of,
    scorer_of,
)

__all__ = [
    "OPTIONS",
    "TASKS",
    "Scorer",
    "Scores",
    "Task",
    "begin",
    "check_source",
    "found",
    "make_task",
    "option_schemas",
    "places",
    "recorded_display",
    "result_of",
    "rows_of",
    "scorer_of",
    "task_class",
]
