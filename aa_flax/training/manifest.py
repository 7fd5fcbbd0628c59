"""Sizes and SHA-256 of a checkpoint's files: written when it is complete, compared before it is read.

Orbax restores arrays with flipped bits in silence, and lists checkpoints of which the half is deleted.
"""

import hashlib
import json
import os
from pathlib import Path

NAME = "manifest.json"


def write_manifest(folder: Path) -> None:
    """Vouch for the files of `folder` as they are now; atomic, and on disk when this returns."""
    entries = {
        str(file.relative_to(folder)): {"bytes": file.stat().st_size, "sha256": _digest(file)}
        for file in sorted(folder.rglob("*"))
        if file.is_file() and file.name != NAME
    }
    temporary = folder.parent / f".{folder.name}.{NAME}.partial"
    with temporary.open("w") as f:
        json.dump(entries, f, indent=1)
        f.flush()
        os.fsync(f.fileno())
    temporary.replace(folder / NAME)
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def has_manifest(folder: Path) -> bool:
    """Whether saving came to its end; says nothing of the files since."""
    return (folder / NAME).is_file()


def damage(folder: Path) -> str | None:
    """The first thing that differs from the manifest, with the file's name, or None."""
    try:
        entries = json.loads((folder / NAME).read_text())
        for name, entry in entries.items():
            file = folder / name
            if not file.is_file():
                return f"{name} is missing"
            if (size := file.stat().st_size) != entry["bytes"]:
                return f"{name} has {size} bytes instead of {entry['bytes']}"
            if _digest(file) != entry["sha256"]:
                return f"{name} has other contents than were saved"
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        return f"cannot be checked: {error}"
    return None


def _digest(file: Path) -> str:
    with file.open("rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()
