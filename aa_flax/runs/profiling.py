"""Tracing some steps, for TensorBoard or Perfetto."""

from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from typing import Any

import jax


class Profile:
    """A trace of the steps after `first` up to `last`, taken once.

    Args:
        steps: (first, last), or () for none.
        folder: opens the folder to write `plugins/profile/...` to, which TensorBoard's profile plugin reads; the file
            `perfetto_trace.json.gz` in it opens in ui.perfetto.dev.
    """

    def __init__(self, steps: tuple[int, ...], folder: Callable[[], AbstractContextManager[Path]]) -> None:
        self._steps, self._folder = steps, folder
        self._closing = ExitStack()
        self._open = False

    def at(self, step: int, state: Any) -> None:
        """Start or end the trace if it is due after `step`, whose result is `state`; then wait for the device first."""
        if not self._steps:
            return
        first, last = self._steps
        if step == first:
            jax.block_until_ready(state)
            jax.profiler.start_trace(self._closing.enter_context(self._folder()), create_perfetto_trace=True)
            self._open = True
        elif self._open and step >= last:
            jax.block_until_ready(state)
            self.close()

    def close(self) -> None:
        """Write the trace, if it is open because the run ended before the last step to trace."""
        if self._open:
            self._open = False
            with self._closing:
                jax.profiler.stop_trace()
