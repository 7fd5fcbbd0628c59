"""A trace of some steps, for TensorBoard or Perfetto."""

from pathlib import Path
from typing import Any

import jax


class Profile:
    """Traces the steps after `first` up to `last`, once.

    Args:
        steps: (first, last), or () for none.
        folder: `plugins/profile/...` goes there: TensorBoard's profile plugin reads it, and `perfetto_trace.json.gz` in
            it opens in ui.perfetto.dev.
    """

    def __init__(self, steps: tuple[int, ...], folder: Path) -> None:
        self._steps, self._folder = steps, folder
        self._open = False

    def at(self, step: int, state: Any) -> None:
        """After `step`, whose result is `state`; waits for the device at both ends."""
        if not self._steps:
            return
        first, last = self._steps
        if step == first:
            jax.block_until_ready(state)
            jax.profiler.start_trace(self._folder, create_perfetto_trace=True)
            self._open = True
        elif self._open and step >= last:
            jax.block_until_ready(state)
            self.close()

    def close(self) -> None:
        """Write what there is, where the run ends before its last traced step."""
        if self._open:
            self._open = False
            jax.profiler.stop_trace()
