"""Small files that are there as a whole or not at all, also after a power cut."""

import os
from pathlib import Path


def write_durably(file: Path, text: str, temporary: Path) -> None:
    """Write a file under another name, bring it to the disk, and give it its own name, whatever was there before.

    Args:
        file: the file.
        text: its contents.
        temporary: the other name, on the same file system.

    Raises:
        OSError: it cannot be written.
    """
    with temporary.open("w") as stream:
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())  # before the name: a power cut may keep a name and lose what it names
    temporary.replace(file)
