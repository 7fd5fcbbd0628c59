"""The log of a run: JSON lines for programs, TensorBoard events for people.

On a disk the lines are one file, `metrics.jsonl`. In a bucket, where nothing can be appended to, `metrics-00001.jsonl`
and so on follow it; they are read as one, on a disk too, where a run may have been copied to.
"""

import contextlib
import functools
import os
import re
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from absl import logging

from aa_flax.json_values import finite, from_json, to_json
from aa_flax.runs.buckets.bucket_path import BucketPath
from aa_flax.runs.buckets.parts import Parts
from aa_flax.runs.events import Events
from aa_flax.runs.hosts import is_first
from aa_flax.runs.paths import RunPath, run_path

OnMetrics = Callable[[dict[str, Any]], Any]
"""What is called with each row of the log: {"step", "split", ...}, values as JSON has them."""

_PAUSE = 2.0  # seconds between two writings of rows to a bucket, which refuses more than one a second of an object

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
    lost. In a bucket rows wait for two seconds to be written together. Only the first of several processes writes.

    Args:
        workdir: the directory of the run.
        step: the step that it starts or resumes at.
        on_metrics: called with each row after it was written, in the process that writes. An exception costs a warning,
            and the log goes on; after ten in a row it is not called again.
    """

    def __init__(self, workdir: RunPath, step: int, on_metrics: OnMetrics | None = None) -> None:
        self.file = workdir / "metrics.jsonl"
        self._told = _Told(on_metrics) if on_metrics is not None else None
        self._waiting: list[str] = []
        self._events: Events | None = None
        self._written, self._pause = -_PAUSE, 0.0
        if not is_first():
            return
        self._last, text = _cut(self.file, step)
        if isinstance(self._last, BucketPath):
            self._pause = _PAUSE
            self._parts = Parts(functools.partial(_part, self._last), _number(self._last), text.encode())
        else:
            temporary = self._last.with_name(f".{self._last.name}.partial")
            temporary.write_text(text)
            temporary.replace(self._last)
        self._events = Events(workdir, step)

    def write(self, step: int, split: str, **values: Any) -> None:
        """Add one row; numbers also go to TensorBoard as `split/name`. None, infinities and NaN are written as null."""
        if self._events is None:
            return
        values = finite(values)
        row = {"step": step, "split": split, **values}
        self._waiting.append(to_json(row) + "\n")
        if time.monotonic() - self._written >= self._pause:
            self._append()
        self._events.write(step, {f"{split}/{name}": value for name, value in values.items() if value is not None})
        if self._told is not None:
            self._told(row)

    def flush(self) -> None:
        """Write the rows that wait, if that is possible: what a checkpoint has seen must not be missing in the log."""
        if self._waiting:
            self._append()

    def close(self) -> None:
        """Write the rows that wait; raise MetricsError if they still cannot be written."""
        if self._events is not None:
            self._events.close()
        if self._waiting:
            self._append()
        if self._waiting:
            raise MetricsError(f"{self.file}: {len(self._waiting)} rows could not be written")

    def _append(self) -> None:
        self._written = time.monotonic()
        try:
            if isinstance(self._last, BucketPath):
                self._parts.append("".join(self._waiting).encode())
            else:
                _append_whole(self._last, self._waiting)
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


def read_metrics(file: RunPath | str) -> list[dict[str, Any]]:
    """Return all rows of a `metrics.jsonl` and of the parts that follow it.

    Lines that are damaged, or the last one if it is torn, are left out.
    """
    return [row for part in _all_parts(run_path(file)) for row in _read(part)[0]]


def _part(other: BucketPath, number: int) -> BucketPath:
    """Return the part of a log with a number, beside another part; 0 is the file itself."""
    stem = re.sub(r"-\d{5,}$", "", other.name.removesuffix(other.suffix))
    return other.parent / f"{stem}{f'-{number:05d}' if number else ''}{other.suffix}"


def _number(part: RunPath) -> int:
    found = re.search(r"-(\d{5,})\.\w+$", part.name)
    return int(found[1]) if found else 0


def _all_parts(file: RunPath) -> list[RunPath]:
    """Return the parts of a log in their order; the file itself is the first, whether it is there or not."""
    name = re.compile(rf"{re.escape(file.name.removesuffix(file.suffix))}-\d{{5,}}{re.escape(file.suffix)}")
    beside = file.parent.iterdir() if file.parent.is_dir() else ()
    return [file, *sorted((each for each in beside if name.fullmatch(each.name)), key=_number)]


def _cut(file: RunPath, step: int) -> tuple[RunPath, str]:
    """Remove the rows after a step from all parts but the last one to stay; return that one, and what it is to have.

    A process that is killed here leaves a log that another one cuts to the same rows.
    """
    parts, damaged = [], 0
    for part in _all_parts(file):
        rows, others = _read(part)
        damaged += others
        parts.append((part, rows, [row for row in rows if row["step"] <= step]))
    if damaged:
        logging.warning("%s: %d damaged lines left out", file, damaged)
    while len(parts) > 1 and not parts[-1][2]:
        parts.pop()[0].unlink()
    for part, rows, kept in parts[:-1]:
        if rows != kept:
            part.write_text(_lines(kept))
    return parts[-1][0], _lines(parts[-1][2])


def _lines(rows: list[dict[str, Any]]) -> str:
    return "".join(to_json(row) + "\n" for row in rows)


def _append_whole(file: Path, lines: list[str]) -> None:
    """Append lines to a file; if that fails, none of them is there."""
    size = file.stat().st_size
    try:
        with file.open("a") as f:
            f.writelines(lines)
    except OSError:
        with contextlib.suppress(OSError):
            os.truncate(file, size)  # a part of the rows may be there
        raise


def _read(file: RunPath) -> tuple[list[dict[str, Any]], int]:
    """Return the rows of a log and how many other lines it has; a torn last line, as a kill leaves it, is not counted.

    A power cut leaves zeros where bytes were not written yet, sometimes before a line of the next process.
    """
    try:
        content = file.read_bytes()
    except FileNotFoundError:
        content = b""
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
