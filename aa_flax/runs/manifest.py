"""Manifests: sizes and SHA-256 of the files of a folder, written when it is complete, compared before it is read.

Orbax restores arrays with flipped bits without an error, and lists checkpoints that are half deleted.
"""

import hashlib
import json
import os
import re
from pathlib import Path
from typing import Any

from aa_flax.alive import alive
from aa_flax.json_values import to_json
from aa_flax.runs.durable import write_durably

NAME = "manifest.json"


def write_manifest(folder: Path) -> None:
    """Write the manifest of the files of `folder` as they are now; atomic, and on disk when this returns."""
    _write(folder, {str(file.relative_to(folder)): _entry(file) for file in _files(folder)})


def vouch(folder: Path) -> None:
    """Add files that the manifest of `folder` does not have to it, without reading the others again.

    It is for a folder whose files are added and never changed.
    """
    known, files = _known(folder), _files(folder)
    new = {file.name: known.get(file.name) or _entry(file) for file in files}
    if new != known:
        _write(folder, new)


def unvouched(folder: Path) -> list[Path]:
    """Return the files directly in `folder` that its manifest does not have, or that differ from it."""
    known = _known(folder)
    return [file for file in _files(folder) if known.get(file.name) != _entry(file)]


def _known(folder: Path) -> dict[str, Any]:
    try:
        known = json.loads((folder / NAME).read_text())
    except (OSError, ValueError):
        return {}
    return known if isinstance(known, dict) else {}


def _files(folder: Path) -> list[Path]:
    return [file for file in sorted(folder.rglob("*")) if file.is_file() and file.name != NAME]


def _is_entry(entry: Any) -> bool:
    if not (isinstance(entry, dict) and entry.keys() == {"bytes", "sha256"} and type(entry["bytes"]) is int):
        return False
    return isinstance(entry["sha256"], str) and re.fullmatch("[0-9a-f]{64}", entry["sha256"]) is not None


def _entry(file: Path) -> dict[str, Any]:
    return {"bytes": file.stat().st_size, "sha256": _digest(file)}


def _write(folder: Path, entries: dict[str, Any]) -> None:
    write_durably(folder / NAME, to_json(entries, indent=1), folder.parent / f".{folder.name}.{NAME}.partial")
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def has_manifest(folder: Path) -> bool:
    """Return whether a folder has a manifest of ours, so that saving was completed; the files may have changed since.

    A file of that name with other contents, which other programs have too, is none.
    """
    known = _known(folder)
    return bool(known) and all(_is_entry(entry) for entry in known.values())


def damage(folder: Path) -> str | None:
    """Return the first difference from the manifest, with the file's name, or None."""
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
    alive()  # a large checkpoint takes minutes
    with file.open("rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()
