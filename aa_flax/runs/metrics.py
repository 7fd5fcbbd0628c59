"""The log of a run: JSON lines for programs, TensorBoard events for people."""

import contextlib
import os
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from absl import logging
from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.summary import scalar

from aa_flax.json_values import finite, from_json, to_json
from aa_flax.runs.hosts import is_first

OnMetrics = Callable[[dict[str, Any]], Any]
"""What is called with each row of the log: {"step", "split", ...}, values as JSON has them."""

_MOST_FAILURES = 10
"""Exceptions of `on_metrics` in a row after which it is left alone: one that waits for a server may take minutes."""

TIMING = ("images_per_second", "seconds")
"""The keys of a row that depend on the machine; all others are reproduced by a resumed run bit for bit."""


class MetricsError(Exception):
    """Rows that could not be written until the log was closed; the message is one line."""


class MetricsLog:
    """The log of a run: `metrics.jsonl`, one object a line, and TensorBoard events beside it.

    Opening the log of a run that resumes at `step` removes rows of later steps and lines that are no rows, so that the
    file ends up as an uninterrupted run's; lines that a power cut or a copy has damaged cost a warning. Rows that
    cannot be written, as on a full disk, are kept and written with the next row; events that cannot be written are
    lost. Only the first of several processes writes.

    Args:
        workdir: the directory of the run.
        step: the step that it starts or resumes at.
        on_metrics: called with each row after it was written, in the process that writes. An exception costs a warning,
            and the log goes on; after ten in a row it is not called again.
    """

    def __init__(self, workdir: Path, step: int, on_metrics: OnMetrics | None = None) -> None:
        self.file = workdir / "metrics.jsonl"
        self._told = _Told(on_metrics) if on_metrics is not None else None
        self._waiting: list[str] = []
        self._events: _Events | None = None
        if not is_first():
            return
        found, damaged = _read(self.file)
        if damaged:
            logging.warning("%s: %d damaged lines left out", self.file, damaged)
        rows = [row for row in found if row["step"] <= step]
        temporary = workdir / ".metrics.jsonl.partial"
        temporary.write_text("".join(to_json(row) + "\n" for row in rows))
        temporary.replace(self.file)
        self._events = _Events(workdir, step)

    def write(self, step: int, split: str, **values: Any) -> None:
        """Add one row; numbers also go to TensorBoard as `split/name`. None, infinities and NaN are written as null."""
        if self._events is None:
            return
        values = finite(values)
        row = {"step": step, "split": split, **values}
        self._waiting.append(to_json(row) + "\n")
        self._append()
        self._events.write(step, {f"{split}/{name}": value for name, value in values.items() if value is not None})
        if self._told is not None:
            self._told(row)

    def close(self) -> None:
        """Write the rows that wait; raise MetricsError if they still cannot be written."""
        if self._events is not None:
            self._events.close()
        if self._waiting:
            self._append()
        if self._waiting:
            raise MetricsError(f"{self.file}: {len(self._waiting)} rows could not be written")

    def _append(self) -> None:
        try:
            size = self.file.stat().st_size
            try:
                with self.file.open("a") as f:
                    f.writelines(self._waiting)
            except OSError:
                with contextlib.suppress(OSError):
                    os.truncate(self.file, size)  # a part of the rows may be there
                raise
        except OSError as error:
            logging.warning("%s: %d rows wait to be written: %s", self.file, len(self._waiting), error)
        else:
            self._waiting.clear()


class _Told:
    """A function that is told each row, whose exceptions end nothing."""

    def __init__(self, function: OnMetrics) -> None:
        self._function = function
        self._failures, self._last = 0, ""  # in a row, and the last one's words

    def __call__(self, row: dict[str, Any]) -> None:
        if self._failures == _MOST_FAILURES:
            return
        try:
            self._function(row)
        except Exception as error:
            self._failures += 1
            frame = traceback.extract_tb(error.__traceback__)[-1]
            words = (
                f"{type(error).__name__}: {' '.join(str(error).split())[:300]} ({frame.filename}, line {frame.lineno})"
            )
            if self._failures == _MOST_FAILURES:
                logging.warning("on_metrics is not called again; %d times in a row it raised %s", _MOST_FAILURES, words)
            elif words != self._last:
                logging.warning("on_metrics raised %s; the run goes on", words)
            self._last = words
        else:
            self._failures, self._last = 0, ""


class _Events:
    """TensorBoard's file, written without a thread: the usual writer's thread does not survive a full disk."""

    def __init__(self, workdir: Path, step: int) -> None:
        self._writer = EventsWriter(str(workdir / "events"))
        # Makes TensorBoard drop what an earlier process wrote of later steps: of all, before the first checkpoint.
        self._put([Event(step=step + 1, session_log=SessionLog(status=SessionLog.START))])

    def write(self, step: int, values: dict[str, Any]) -> None:
        self._put([Event(step=step, summary=scalar(name, value)) for name, value in values.items()])

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._writer.close()

    def _put(self, events: list[Any]) -> None:
        try:
            for event in events:
                event.wall_time = time.time()
                self._writer.write_event(event)
            self._writer.flush()
        except OSError as error:
            logging.log_first_n(logging.WARNING, "TensorBoard events are lost: %s", 1, error)


def read_metrics(file: Path) -> list[dict[str, Any]]:
    """Return all rows of a `metrics.jsonl`; lines that are damaged, or the last one if it is torn, are left out."""
    return _read(file)[0]


def _read(file: Path) -> tuple[list[dict[str, Any]], int]:
    """Return the rows of a log and how many other lines it has; a torn last line, as a kill leaves it, is not counted.

    A power cut leaves zeros where bytes were not written yet, sometimes before a line of the next process.
    """
    content = file.read_bytes() if file.exists() else b""
    rows, damaged = [], 0
    for line in content.splitlines(keepends=True):
        try:
            row = from_json(line.strip(b"\0\r\n ").decode())
        except ValueError:  # no JSON, or no UTF-8
            row = None
        if isinstance(row, dict) and isinstance(row.get("step"), int) and "split" in row:
            rows.append(row)
        elif line.endswith(b"\n") and line.strip():
            damaged += 1
    return rows, damaged
