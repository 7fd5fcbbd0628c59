"""Manifests: sizes and hashes of the files of a folder, written when it is complete, compared before it is read.

Orbax restores arrays with flipped bits without an error, and lists checkpoints that are half deleted.

On a disk the hash is SHA-256. A bucket keeps the MD5 of each object and gives it with the list of its objects, so that
a checkpoint is compared there without being read; Cloud Storage itself proves what it keeps against its hashes. Either
manifest also vouches for a copy of the folder in the other place.
"""

import hashlib
import json
import os
import re
from pathlib import Path
from typing import Any

from aa_flax.alive import alive
from aa_flax.json_values import to_json
from aa_flax.runs.buckets.store import BucketError
from aa_flax.runs.durable import write_durably
from aa_flax.runs.paths import File, RunPath, files_below

NAME = "manifest.json"
_DIGITS = {"sha256": 64, "md5": 32}
"""The hashes that an entry may have, and the numbers of their hexadecimal digits."""


def write_manifest(folder: RunPath) -> None:
    """Write the manifest of the files of `folder` as they are now; atomic, and on disk when this returns."""
    known = {name: facts for name, facts in files_below(folder).items() if name.rpartition("/")[2] != NAME}
    kind = "sha256" if isinstance(folder, Path) else "md5"
    _write(
        folder,
        {name: {"bytes": facts.size, kind: _digest(folder / name, kind, facts)} for name, facts in known.items()},
    )


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


def _known(folder: RunPath) -> dict[str, Any]:
    try:
        known = json.loads((folder / NAME).read_text())
    except BucketError:
        raise  # it is not known what is there
    except (OSError, ValueError):
        return {}
    return known if isinstance(known, dict) else {}


def _files(folder: Path) -> list[Path]:
    return [file for file in sorted(folder.rglob("*")) if file.is_file() and file.name != NAME]


def _is_entry(entry: Any) -> bool:
    if not (isinstance(entry, dict) and type(entry.get("bytes")) is int):
        return False
    kind = next((kind for kind in _DIGITS if entry.keys() == {"bytes", kind}), None)
    if kind is None or not isinstance(entry[kind], str):
        return False
    return re.fullmatch(f"[0-9a-f]{{{_DIGITS[kind]}}}", entry[kind]) is not None


def _entry(file: Path) -> dict[str, Any]:
    return {"bytes": file.stat().st_size, "sha256": _digest(file, "sha256")}


def _write(folder: RunPath, entries: dict[str, Any]) -> None:
    write_durably(folder / NAME, to_json(entries, indent=1), folder.parent / f".{folder.name}.{NAME}.partial")
    if not isinstance(folder, Path):
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def has_manifest(folder: RunPath) -> bool:
    """Return whether a folder has a manifest of ours, so that saving was completed; the files may have changed since.

    A file of that name with other contents, which other programs have too, is none.
    """
    known = _known(folder)
    return bool(known) and all(_is_entry(entry) for entry in known.values())


def damage(folder: RunPath) -> str | None:
    """Return the first difference from the manifest, with the file's name, or None."""
    try:
        entries = json.loads((folder / NAME).read_text())
        there = files_below(folder)
        for name, entry in entries.items():
            if name not in there:
                return f"{name} is missing"
            if (size := there[name].size) != entry["bytes"]:
                return f"{name} has {size} bytes instead of {entry['bytes']}"
            kind = "md5" if "md5" in entry else "sha256"
            if _digest(folder / name, kind, there[name]) != entry[kind]:
                return f"{name} has other contents than were saved"
    except BucketError:
        raise
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        return f"cannot be checked: {error}"
    return None


def _digest(file: RunPath, kind: str, facts: File | None = None) -> str:
    """Return the hash of a file, which is read unless `facts` have it."""
    alive()  # a large checkpoint takes minutes
    if kind == "md5" and facts is not None and facts.md5:
        return facts.md5
    if not isinstance(file, Path):
        return hashlib.new(kind, file.read_bytes(), usedforsecurity=False).hexdigest()
    with file.open("rb") as f:
        return hashlib.file_digest(f, lambda: hashlib.new(kind, usedforsecurity=False)).hexdigest()
