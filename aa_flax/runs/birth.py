"""Which folders are run directories: a marker, written at a run's birth, says so; any other folder is left alone."""

import json
import os
import stat
import sys
import time
from pathlib import Path
from typing import Any

from aa_flax.json_values import to_json
from aa_flax.runs.buckets.store import BucketError
from aa_flax.runs.checkpoint_files import saved_steps, unvouched
from aa_flax.runs.durable import write_durably
from aa_flax.runs.paths import RunPath

MARKER = "run.json"
_WHAT = "run directory of aa_flax"
_LOGS = (".log", ".out", ".err")
"""Ends of the names of files that shells, `tee` and schedulers write beside a run, and runs never do."""


def is_run(folder: RunPath) -> bool:
    """Return whether a folder is a run directory.

    It has the marker or, from a version that wrote none, a config.json beside a checkpoint with its manifest. A file of
    the marker's name that says something else makes none.
    """
    if read_mark(folder).get("what") == _WHAT:
        return True
    return (folder / "config.json").is_file() and bool(saved_steps(folder / "checkpoints"))


def foreign(folder: RunPath) -> list[str]:
    """Return the names in a folder, sorted, that a run may not begin beside; [] if one may.

    A run may begin beside `lost+found`, names that begin with a dot, an empty `checkpoints`, and logs: the files that
    standard output and error of this process go to, empty files, and names that end in .log, .out or .err.
    """
    if not folder.is_dir():
        return []
    return sorted(child.name for child in folder.iterdir() if not _harmless(child))


def mark(folder: RunPath, **more: Any) -> None:
    """Write the marker, or add to the one that is there."""
    values = {"born": time.strftime("%Y-%m-%dT%H:%M:%S%z"), **read_mark(folder)}
    if values.get("what") != _WHAT or any(values.get(name) != value for name, value in more.items()):
        text = to_json({**values, "what": _WHAT, **more}, indent=1) + "\n"
        write_durably(folder / MARKER, text, folder / f".{MARKER}.partial")


def lost(folder: RunPath) -> str:
    """Return what of a run is no longer there, "" if nothing; for a folder without a usable checkpoint."""
    again = "to start over, choose another directory or remove what is in this one"
    if there := unvouched(folder / "checkpoints"):
        names = ", ".join(child.name for child in there)
        return f"{folder / 'checkpoints'}: {names} without manifest.json, so nothing there can be trusted; {again}"
    if (folder / "result.json").exists():
        return f"{folder} has a result and no checkpoint; {again}"
    if read_mark(folder).get("saved"):
        return f"{folder} had checkpoints, and has none to go on from; {again}"
    return ""


def read_mark(folder: RunPath) -> dict[str, Any]:
    """Return what the marker of a run directory says; {} if there is none, or it is damaged."""
    try:
        values = json.loads((folder / MARKER).read_text())
    except BucketError:
        raise  # it is not known what is there
    except (OSError, ValueError):
        return {}
    return values if isinstance(values, dict) else {}


def _harmless(child: RunPath) -> bool:
    if child.name == "lost+found" or child.name.startswith("."):
        return True
    if child.name == "checkpoints" and child.is_dir():
        return not any(child.iterdir())
    if not child.is_file():
        return False
    if child.suffix in _LOGS:
        return True
    return isinstance(child, Path) and (child.stat().st_size == 0 or _is_our_output(child))


def _is_our_output(file: Path) -> bool:
    """Return whether standard output or error of this process goes to a file."""
    here = file.stat()
    for stream in (sys.__stdout__, sys.__stderr__):
        try:
            there = os.fstat(stream.fileno())  # type: ignore[union-attr]
        except (AttributeError, OSError, ValueError):  # no such stream, or it is closed
            continue
        if stat.S_ISREG(there.st_mode) and (there.st_dev, there.st_ino) == (here.st_dev, here.st_ino):
            return True
    return False
