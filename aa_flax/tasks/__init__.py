"""Tasks: what a network can be trained for."""

from aa_flax.tasks.table import OPTIONS, TASKS, make_task, option_schemas, task_class
from aa_flax.tasks.task import Scores, Task, begin

__all__ = ["OPTIONS", "TASKS", "Scores", "Task", "begin", "make_task", "option_schemas", "task_class"]
