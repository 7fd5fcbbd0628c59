"""What a bucket is asked for: objects, written as a whole, each with a generation that says which writing it is.

An object cannot be appended to or renamed, and there are no folders, only names with slashes in them. A writer may say
which generation it means to replace; then of two writers one is refused.
"""

import errno
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from aa_flax.runs.errors import RunDirectoryError


class BucketError(OSError, RunDirectoryError):
    """A bucket that does not answer, does not exist or may not be used; the message is one line."""

    def __init__(self, message: str, number: int = errno.EIO) -> None:
        super().__init__(number, message)

    def __str__(self) -> str:
        return str(self.strerror)


class Refused(BucketError):
    """An object that is not of the generation that its writer means to replace."""


@dataclass(frozen=True)
class Object:
    """The description of an object.

    Attributes:
        name: in the bucket, without a slash at its beginning.
        generation: a number that no other writing of this name has; those of later ones are larger.
        size: bytes.
        md5: of the content, in hexadecimal digits; "" where the server does not keep it.
        updated: when it was written, in seconds since 1970 by the server's clock.
    """

    name: str
    generation: int
    size: int
    md5: str
    updated: float


@runtime_checkable  # the shape checker of the tests asks
class Store(Protocol):
    """The objects of one bucket. All methods may raise BucketError."""

    def read(self, name: str) -> bytes:
        """Return the content of an object; raise FileNotFoundError if there is none."""
        ...

    def look(self, name: str) -> tuple[Object | None, float]:
        """Return the description of an object, None if there is none, and the time by the server's clock."""
        ...

    def write(self, name: str, content: bytes, generation: int | None = None) -> Object:
        """Write an object as a whole.

        Args:
            name: of the object.
            content: its bytes.
            generation: which one is replaced, 0 if there must be none, None for whatever is there.

        Raises:
            Refused: the object is of another generation.
        """
        ...

    def list(self, prefix: str, deep: bool = True) -> tuple[list[Object], list[str]]:
        """Return the objects whose names begin with `prefix`, sorted by name, and no folders.

        If not `deep`, those with a slash after the prefix are left out, and their names up to this slash, each once,
        are the folders.
        """
        ...

    def delete(self, name: str) -> None:
        """Delete an object, if there is one."""
        ...

    def copy(self, name: str, other: str) -> None:
        """Copy an object inside the bucket; raise FileNotFoundError if there is none."""
        ...
