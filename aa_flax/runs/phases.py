"""Durations of the phases before the first step."""

import time


class Phases:
    """A stopwatch: each phase lasts from the end of the one before."""

    def __init__(self) -> None:
        self._begun = self._last = time.monotonic()
        self._seconds: dict[str, float] = {}

    def done(self, phase: str) -> None:
        """Record that `phase` ends now."""
        now = time.monotonic()
        self._seconds[phase] = now - self._last
        self._last = now

    def __str__(self) -> str:
        parts = ", ".join(f"{phase} {seconds:.1f}" for phase, seconds in self._seconds.items())
        return f"first step done after {self._last - self._begun:.1f} s: {parts}"
