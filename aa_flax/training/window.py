"""Log windows: the only places where the host waits for the device."""

import math
import time
from collections.abc import Callable
from typing import Any

import jax

from aa_flax.training.metrics import MetricsLog
from aa_flax.training.progress import ProgressBar
from aa_flax.training.setup import Setup
from aa_flax.training.state import TrainState
from aa_flax.training.step import reset_window


class NonFiniteError(Exception):
    """Training diverged; the message is one line."""


class Windows:
    """Closes log windows.

    Args:
        setup: of the run.
        log, progress: where means go.
        elapsed: seconds since the run began.
        last_good: names the newest checkpoint.
    """

    def __init__(
        self,
        setup: Setup,
        log: MetricsLog,
        progress: ProgressBar,
        elapsed: Callable[[], float],
        last_good: Callable[[], Any],
    ) -> None:
        self._setup, self._log, self._progress = setup, log, progress
        self._elapsed, self._last_good = elapsed, last_good
        self._since: float | None = None  # unknown for a window that compiles
        self._rates: list[float] = []

    @property
    def images_per_second(self) -> float:
        """Median over the windows of this call; nan if there was none without compilation."""
        return sorted(self._rates)[len(self._rates) // 2] if self._rates else math.nan

    def close(self, state: TrainState) -> TrainState:
        """Log the window's means and open the next; NonFiniteError if a step of it went wrong."""
        sums, step, bad = jax.device_get((state.window, state.step, state.first_bad_step))
        now = time.monotonic()
        steps, step = int(sums["steps"]), int(step)
        means = {
            "loss": float(sums["loss"]) / steps,
            "accuracy": int(sums["correct"]) / int(sums["examples"]),
            "grad_norm": float(sums["grad_norm"]) / steps,
            "learning_rate": float(self._setup.learning_rate(step - 1)),
        }
        if bad >= 0:
            values = ", ".join(f"{name} {value:.6g}" for name, value in means.items())
            raise NonFiniteError(
                f"loss or gradient became non-finite at step {int(bad)} (means up to step {step}: {values}); "
                f"last good checkpoint: {self._last_good()}"
            )
        rate = steps * self._setup.config.batch_size / (now - self._since) if self._since else None
        if rate:
            self._rates.append(rate)
        self._log.write(step, "train", epoch=step / self._setup.epoch_steps, **means, seconds=self._elapsed())
        epoch = math.ceil(step / self._setup.epoch_steps)
        self._progress.update(step, epoch, means["loss"], means["accuracy"], rate or math.nan)
        self.restart()
        return reset_window(state)

    def restart(self) -> None:
        """Start the clock of the open window anew."""
        self._since = time.monotonic()
