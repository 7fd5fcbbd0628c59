"""Log windows: stretches of steps, at whose ends alone the host waits for the device."""

import math
import time
from collections.abc import Callable
from typing import Any

import jax
from absl import logging

from aa_flax.runs.metrics import MetricsLog
from aa_flax.runs.progress import ProgressBar
from aa_flax.training.program import Program
from aa_flax.training.state import TrainState
from aa_flax.training.step import reset_window


class NonFiniteError(Exception):
    """Training diverged; the message is one line.

    Attributes:
        bad_steps: the steps whose loss or gradient was infinite or NaN, the last first, at most eight.
    """

    def __init__(self, message: str, bad_steps: list[int]) -> None:
        super().__init__(message)
        self.bad_steps = bad_steps


class Windows:
    """The log windows of one call of `train`.

    Args:
        program: the program of the run.
        start_step: the step that this call starts or resumes at.
        log, progress: what the means of each log window are written to.
        elapsed: returns the seconds that the run has taken so far.
        last_good: returns the name of the newest checkpoint, for messages.
    """

    def __init__(
        self,
        program: Program,
        start_step: int,
        log: MetricsLog,
        progress: ProgressBar,
        elapsed: Callable[[], float],
        last_good: Callable[[], Any],
    ) -> None:
        self._program, self._log, self._progress = program, log, progress
        self._elapsed, self._last_good = elapsed, last_good
        self._rates: list[float] = []
        self._since, self._timed_from = math.nan, start_step  # when the clock started, and after which step
        self._opened_at, self._skipped = start_step, 0

    @property
    def images_per_second(self) -> float:
        """Return the median over the log windows of this call; nan where every step of each compiled."""
        return sorted(self._rates)[len(self._rates) // 2] if self._rates else math.nan

    @property
    def latest_images_per_second(self) -> float:
        """Return the rate of the last log window that has one; nan if there was none."""
        return self._rates[-1] if self._rates else math.nan

    def close(self, state: TrainState) -> TrainState:
        """Log the means of the open log window and return the state with an empty one.

        Raises:
            NonFiniteError: more steps than `max_nonfinite_steps` were left out.
        """
        sums, step, skipped, bad_steps = jax.device_get((state.window, state.step, state.skipped, state.bad_steps))
        now = time.monotonic()
        good, step, skipped, measured = int(sums["steps"]), int(step), int(skipped), sums["metrics"]
        timed, self._opened_at = step - self._timed_from, step
        # Nothing to average where every step was left out.
        means = {
            "loss": float(sums["loss"]) / good if good else None,
            # A metric that is newer than the restored checkpoint counts fewer steps, or none.
            **{
                name: each["sum"].item() / each["count"].item() if each["count"] else None
                for name, each in measured.items()
            },
            "grad_norm": float(sums["grad_norm"]) / good if good else None,
            "learning_rate": float(self._program.learning_rate(max(step - skipped - 1, 0))),
            "skipped": skipped,
        }
        if skipped > self._program.config.max_nonfinite_steps:
            found = [int(bad) for bad in bad_steps if bad >= 0]
            raise NonFiniteError(
                f"loss or gradient became infinite or NaN in {skipped} step{'s' * (skipped > 1)}, last in "
                f"step {found[0]} (good steps before step {step}: {_told(means)}); "
                f"last good checkpoint: {self._last_good()}",
                found,
            )
        if skipped > self._skipped:
            logging.warning(
                "%d steps left out so far, last step %d: infinite or NaN loss or gradient", skipped, bad_steps[0]
            )
            self._skipped = skipped
        rate = timed * self._program.config.batch_size / (now - self._since) if timed else None
        if rate:
            self._rates.append(rate)
        times = {"images_per_second": rate, "seconds": self._elapsed()}
        self._log.write(step, "train", epoch=step / self._program.epoch_steps, **means, **times)
        epoch = math.ceil(step / self._program.epoch_steps)
        shown = {name: value for name in ("loss", *measured) if (value := means[name]) is not None}
        self._progress.update(step, epoch, shown, rate or math.nan)
        self.restart()
        return reset_window(state)

    def compiled(self, step: int) -> None:
        """Restart the clock after `step`, which was compiled and has ended, so that only later steps are timed."""
        self._since, self._timed_from = time.monotonic(), step

    def restart(self) -> None:
        """Restart the clock of the log window that has just been opened."""
        self._since, self._timed_from = time.monotonic(), self._opened_at


def _told(means: dict[str, float | int | None]) -> str:
    return ", ".join(f"{name} {value:.6g}" for name, value in means.items() if value is not None)
