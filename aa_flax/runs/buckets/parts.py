"""A log in a bucket, where nothing is appended to: an object is written again while it is small, then one follows."""

import hashlib
from collections.abc import Callable

from aa_flax.runs.buckets.bucket_path import BucketPath
from aa_flax.runs.buckets.store import Refused

_MOST = 2**16  # bytes after which a part is followed by another: what a row costs to send at most


class Parts:
    """The last of the numbered parts of a log, to which lines are added, and those that come after it.

    Each writing names the generation that it replaces, so that a process that has lost its lease is refused here too.

    Args:
        path: returns the object of a part.
        number: of the last part there is.
        content: what it is to have; it is written at once.
    """

    def __init__(self, path: Callable[[int], BucketPath], number: int, content: bytes) -> None:
        self._path, self._number, self._content = path, number, content
        last = path(number)
        self._generation = last.store.write(last.key, content).generation
        self._tried: set[str] = set()  # hashes of contents whose writing got no answer

    def append(self, more: bytes) -> None:
        """Add bytes to the log; raise OSError if they are not known to be there, and then call this with them again.

        Raises:
            Refused: another process has written the part.
        """
        # What got no answer may be there: it is written over, in the same part.
        if not self._tried and self._content and len(self._content) + len(more) > _MOST:
            self._number, self._content, self._generation = self._number + 1, b"", 0
        content, path = self._content + more, self._path(self._number)
        try:
            try:
                written = path.store.write(path.key, content, self._generation)
            except Refused:
                there, _ = path.store.look(path.key)
                if there is None or there.md5 not in self._tried:
                    raise
                written = path.store.write(path.key, content, there.generation)
        except OSError:
            self._tried.add(hashlib.md5(content, usedforsecurity=False).hexdigest())
            raise
        self._content, self._generation = content, written.generation
        self._tried.clear()
