"""The progress that the terminal shows while a run trains."""

import math
import sys
import time
from collections.abc import Mapping
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from aa_flax.literal import literal_lines
from aa_flax.runs.display import Display
from aa_flax.runs.hosts import is_first


class ProgressBar:
    """A bar with loss, metrics, images/s and time left on a terminal; and one line an epoch, elsewhere that alone."""

    def __init__(self, total_steps: int, done: int, epochs: int) -> None:
        stream: Any = Display(sys.stdout)
        self._console = Console(file=stream, quiet=not is_first(), markup=False, emoji=False)
        self._epochs = epochs
        self._started, self._first = time.monotonic(), done
        self._total = total_steps
        self._bar = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[status]}", markup=False),
            TimeRemainingColumn(),
            console=self._console,
            disable=not self._console.is_terminal,
        )
        self._task = self._bar.add_task("compiling", total=total_steps, completed=done, status="")

    def __enter__(self) -> "ProgressBar":
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def update(self, step: int, epoch: int, means: Mapping[str, float], images_per_second: float) -> None:
        """Show the step and the means of a log window that ended."""
        status = (
            "".join(f"{name} {value:.3f}  " for name, value in means.items()) + f"{images_per_second:,.0f} images/s"
        )
        self._bar.update(self._task, completed=step, status=status, description=f"epoch {epoch}/{self._epochs}")

    def say(self, text: str) -> None:
        """Print a line that stays."""
        self._console.print(literal_lines(text), highlight=False, soft_wrap=True)

    def epoch(self, step: int, epoch: int, text: str, images_per_second: float = math.nan) -> None:
        """Print a line that stays about an epoch that ended: `text`, images/s if they are known, and the time left."""
        rate = (step - self._first) / max(time.monotonic() - self._started, 1e-9)
        left = (self._total - step) / rate if rate else 0.0
        minutes, seconds = divmod(round(left), 60)
        speed = "" if math.isnan(images_per_second) else f"{images_per_second:,.0f} images/s  "
        self.say(f"epoch {epoch}/{self._epochs}  {text}  {speed}{minutes}:{seconds:02d} left")
