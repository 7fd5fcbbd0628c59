"""Small files that are there as a whole or not at all, also after a power cut."""

import os
from pathlib import Path

from aa_flax.runs.paths import RunPath


def write_durably(file: RunPath, text: str, temporary: RunPath) -> None:
    """Write a file under another name, bring it to the disk, and give it its own name, whatever was there before.

    An object of a bucket is there as a whole at once.

    Args:
        file: the file.
        text: its contents.
        temporary: the other name, on the same file system.

    Raises:
        OSError: it cannot be written.
    """
    if not isinstance(file, Path) or not isinstance(temporary, Path):
        file.write_text(text)
        return
    with temporary.open("w") as stream:
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())  # before the name: a power cut may keep a name and lose what it names
    temporary.replace(file)
