"""A lease: the lock of a run in a bucket, which outlives its process for a short time only.

The kernel frees the lock of a killed process; nobody deletes its object. So the holder writes the object again and
again, each time only if the generation is the one that it wrote last, and whoever finds it not written for a time may
write it in the holder's place. From then on the holder is refused.
"""

import contextlib
import json
import os
import socket
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator

from absl import logging

from aa_flax.alive import alive
from aa_flax.json_values import to_json
from aa_flax.runs.buckets.bucket_path import BucketPath
from aa_flax.runs.buckets.store import Object, Refused
from aa_flax.runs.display import say
from aa_flax.runs.errors import RunDirectoryError
from aa_flax.runs.hold import Hold

RENEWED, EXPIRED = 20.0, 90.0
"""Seconds between two writings of a lease, and after which it is nobody's."""

_LOOK = 5.0  # seconds between two looks at the lease of a process that may be gone
_MOMENT = 5.0  # seconds for which a lease is not renewed again: a bucket refuses many writings of one object


class Lease(Hold):
    """The right to train in a folder of a bucket.

    Times are the server's: when it received the object, and when it answered. An empty object is a lease that was given
    back.

    Args:
        folder: the run directory.
        sleep: how to wait, in seconds.
        clock: this process's own, in seconds.
    """

    def __init__(
        self,
        folder: BucketPath,
        sleep: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._folder, self._path, self._sleep, self._clock = folder, folder / ".lease", sleep, clock
        self._renewed = clock()
        self._name = uuid.uuid4().hex
        self._written = 0  # times
        self._generation = 0
        self._lost = ""
        self._writing = threading.Lock()

    @contextlib.contextmanager
    def held(self) -> Iterator["Lease"]:
        """Hold the lease while open, and renew it in a thread.

        Raises:
            RunDirectoryError: another process holds it.
        """
        self.take()
        closed = threading.Event()
        thread = threading.Thread(target=self._keep, args=(closed,), name="lease", daemon=True)
        thread.start()
        try:
            yield self
        finally:
            closed.set()
            thread.join()
            self.give_back()

    def take(self) -> None:
        """Take the lease; wait for it where its holder may be gone.

        Raises:
            RunDirectoryError: the holder has renewed it meanwhile, or another process was faster.
        """
        seen = None
        while True:
            there, now = self._path.store.look(self._path.key)
            if there is None or there.size == 0 or now - there.updated > EXPIRED:
                try:
                    self._generation = self._write(there.generation if there else 0).generation
                except Refused:
                    raise RunDirectoryError(f"another process is training in {self._folder}") from None
                return
            if seen is not None and there.generation != seen:
                raise RunDirectoryError(f"another process is training in {self._folder}: {self._holder()}")
            left = EXPIRED - (now - there.updated)
            if seen is None:
                say(f"{self._folder}: waiting up to {left:.0f} s to see whether {self._holder()} is gone", sys.stderr)
            seen = there.generation
            alive()
            self._sleep(min(_LOOK, max(left, 0.0) + 1.0))  # the server's clock may show whole seconds only

    def renew(self) -> None:
        """Write the lease again, unless it is lost; a bucket that cannot be reached costs a warning."""
        with self._writing:
            if self._lost:
                return
            try:
                try:
                    self._generation = self._write(self._generation).generation
                except Refused:
                    # A writing that got no answer may have been done: then the object is still this process's own.
                    self._generation = self._write(self._generation_of_ours()).generation
            except Refused:
                self._lost = f"{self._folder}: another process has taken over this run: {self._holder()}"
                logging.error("%s", self._lost)
            except OSError as error:
                logging.warning("%s: the lease could not be renewed: %s", self._folder, error)

    def check(self) -> None:
        """Raise RunDirectoryError if another process has taken over."""
        if self._lost:
            raise RunDirectoryError(self._lost)

    def confirm(self) -> None:
        """Renew the lease unless it was a moment ago; raise RunDirectoryError if another process has taken over."""
        if self._clock() - self._renewed > _MOMENT:
            self.renew()
        self.check()

    def give_back(self) -> None:
        """Let others take the lease at once."""
        with self._writing:
            if not self._lost:
                try:
                    self._path.store.write(self._path.key, b"", self._generation)
                except OSError as error:
                    logging.warning("%s: the lease could not be given back: %s", self._folder, error)
                self._lost = f"{self._folder}: the lease was given back"

    def _keep(self, closed: threading.Event) -> None:
        while not closed.wait(RENEWED):
            self.renew()

    def _write(self, generation: int) -> Object:
        """Write the lease in the place of a generation, with a content that no other writing has."""
        self._written += 1
        began = self._clock()
        about = {"holder": self._name, "written": self._written, "host": socket.gethostname(), "process": os.getpid()}
        written = self._path.store.write(self._path.key, to_json(about).encode(), generation)
        self._renewed = began
        return written

    def _generation_of_ours(self) -> int:
        """Return the generation of the object if this process wrote it; raise Refused otherwise."""
        there, _ = self._path.store.look(self._path.key)
        if there is None or self._read().get("holder") != self._name:
            raise Refused("the lease is another's")
        return there.generation

    def _holder(self) -> str:
        """Return who holds the lease, in words."""
        about = self._read()
        return f"process {about.get('process', '?')} on {about.get('host', 'an unknown host')}"

    def _read(self) -> dict[str, object]:
        try:
            about = json.loads(self._path.read_bytes())
        except (OSError, ValueError):
            return {}
        return about if isinstance(about, dict) else {}
