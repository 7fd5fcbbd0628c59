"""A bucket in memory, with generations and a clock of its own, for tests of what a run does in one."""

import hashlib

import pytest

from aa_flax.runs.buckets import bucket_path
from aa_flax.runs.buckets.store import BucketError, Object, Refused


class Killed(BaseException):
    """The process was killed at this point; what it would have caught is not caught."""


class Cut(BucketError):
    """No answer came."""

    def __init__(self):
        super().__init__("no answer")


class MemoryStore:
    """The objects of a bucket, in the memory of this process.

    Attributes:
        now: the time by the server's clock, in seconds, which only tests move.
        faults: what becomes of the next writings, each "lost" (nothing is done), "unanswered" (it is done, and the
            writer is not told) or "" (all is well).
        left: how many more changes there are before a kill, None for no kill.
    """

    def __init__(self):
        self.objects, self.now, self.faults, self.left = {}, 1e9, [], None
        self._generation = 0

    def operated(self):
        """Count a change; raise Killed, without the change, if none is left."""
        if self.left is not None:
            self.left -= 1
            if self.left < 0:
                raise Killed

    def read(self, name):
        if name not in self.objects:
            raise FileNotFoundError(name)
        return self.objects[name][1]

    def look(self, name):
        return (self.objects[name][0] if name in self.objects else None), self.now

    def write(self, name, content, generation=None):
        self.operated()
        fault = self.faults.pop(0) if self.faults else ""
        if fault == "lost":
            raise Cut()
        there = self.objects[name][0].generation if name in self.objects else 0
        if generation not in (None, there):
            raise Refused(f"{name}: {generation} is {there}")
        self._generation += 1
        md5 = hashlib.md5(content, usedforsecurity=False).hexdigest()
        self.objects[name] = Object(name, self._generation, len(content), md5, self.now), bytes(content)
        if fault == "unanswered":
            raise Cut()
        return self.objects[name][0]

    def list(self, prefix, deep=True):
        found = [about for name, (about, _) in sorted(self.objects.items()) if name.startswith(prefix)]
        if deep:
            return found, []
        inner = {about.name: about.name[len(prefix) :].partition("/") for about in found}
        folders = {prefix + first + "/" for first, slash, _ in inner.values() if slash}
        return [about for about in found if not inner[about.name][1]], sorted(folders)

    def delete(self, name):
        self.operated()
        self.objects.pop(name, None)

    def copy(self, name, other):
        self.write(other, self.read(name))


@pytest.fixture
def store(monkeypatch):
    """The bucket gs://memory, empty."""
    store = MemoryStore()
    monkeypatch.setitem(bucket_path._stores, "memory", store)
    return store
