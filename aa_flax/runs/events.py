"""TensorBoard's events of a run, for people."""

import contextlib
import os
import tempfile
import time
from pathlib import Path
from typing import Any

from absl import logging
from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.summary import scalar

from aa_flax.runs.paths import RunPath

_PAUSE = 10.0  # seconds between two writings of an object
_MOST = 2**20  # bytes after which a file for a bucket is followed by another


class Events:
    """TensorBoard's files, written without a thread: the usual writer's thread does not survive a full disk.

    For a bucket a file is written to a temporary folder and sent as a whole again and again, until it is followed by
    another; TensorBoard reads all files of a folder in their order. Events that cannot be written are lost.

    Args:
        workdir: the directory of the run.
        step: the step that it starts or resumes at.
    """

    def __init__(self, workdir: RunPath, step: int) -> None:
        self._open_things = contextlib.ExitStack()
        self._bucket = None if isinstance(workdir, Path) else workdir
        if isinstance(workdir, Path):
            self._folder = workdir
        else:
            self._folder = Path(self._open_things.enter_context(tempfile.TemporaryDirectory(prefix="aa_flax-")))
        self._parts, self._sent = 0, -_PAUSE
        self._begin()
        # Makes TensorBoard drop what an earlier process wrote of later steps: of all, before the first checkpoint.
        self._put([Event(step=step + 1, session_log=SessionLog(status=SessionLog.START))])

    def write(self, step: int, values: dict[str, Any]) -> None:
        """Add the values of a step."""
        self._put([Event(step=step, summary=scalar(name, value)) for name, value in values.items()])

    def close(self) -> None:
        """Write what is left, if that is possible."""
        with contextlib.suppress(OSError):
            self._writer.close()
            self._send()
        self._open_things.close()

    def _begin(self) -> None:
        suffix = "" if self._bucket is None else f".{os.getpid()}.{self._parts:05d}"
        self._writer = EventsWriter(str(self._folder / "events"), suffix)
        self._parts += 1

    def _put(self, events: list[Any]) -> None:
        try:
            for event in events:
                event.wall_time = time.time()
                self._writer.write_event(event)
            self._writer.flush()
            if self._bucket is not None and time.monotonic() - self._sent >= _PAUSE:
                self._sent = time.monotonic()
                if self._send() > _MOST:
                    self._writer.close()
                    for file in self._folder.iterdir():
                        file.unlink()
                    self._begin()
        except OSError as error:
            logging.log_first_n(logging.WARNING, "TensorBoard events are lost: %s", 1, error)

    def _send(self) -> int:
        """Send the file to the bucket, if the run lies in one; return its size."""
        if self._bucket is None:
            return 0
        size = 0
        for file in self._folder.iterdir():
            content = file.read_bytes()
            (self._bucket / file.name).write_bytes(content)
            size = len(content)
        return size
