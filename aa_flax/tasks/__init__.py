"""What a network can be trained for."""

from aa_flax.tasks.table import make_task
from aa_flax.tasks.task import Scores, Task

__all__ = ["Scores", "Task", "make_task"]
