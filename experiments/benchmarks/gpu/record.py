"""Results on disk as soon as they are known: a JSON file that stays complete if its writer is killed."""

import os
from pathlib import Path
from typing import Any

from aa_flax.json_values import from_json, to_json

HIDDEN = ".writing"  # suffix of the names of files that are being written


class Record:
    """A JSON object in a file, replaced as a whole at every change.

    Args:
        file: the file; what it has already is kept.
        section: key of the object in the file's, for a file that several parts share; "" is the file's object itself.
    """

    def __init__(self, file: Path, section: str = "") -> None:
        self._file = file
        self._all: dict[str, Any] = read(file)
        self._values: dict[str, Any] = self._all.setdefault(section, {}) if section else self._all

    def put(self, **values: Any) -> None:
        """Set keys and write the file."""
        self._values.update(values)
        write(self._file, to_json(self._all, indent=1) + "\n")

    def add(self, key: str, row: Any) -> None:
        """Append to the list of a key and write the file."""
        self.put(**{key: [*self._values.get(key, []), row]})

    def get(self, key: str, default: Any = None) -> Any:
        """Return what is stored under a key."""
        return self._values.get(key, default)


def read(file: Path) -> dict[str, Any]:
    """Return the object of a file, {} if there is no such file."""
    return from_json(file.read_text()) if file.exists() else {}


def write(file: Path, text: str) -> None:
    """Replace the text of a file at once: readers find the old text or the new one."""
    beside = file.with_name(f".{file.name}{HIDDEN}")
    with beside.open("w") as stream:
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())
    beside.replace(file)


def sweep(folder: Path) -> None:
    """Remove the unfinished files that killed writers left in a folder."""
    for file in folder.glob(f".*{HIDDEN}"):
        file.unlink(missing_ok=True)
