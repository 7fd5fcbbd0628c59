"""The folders of checkpoints: which are complete, which are remains of a killed run, and which are not proved ours.

A save is written to `STEP.unfinished`, gets its manifest there, and then its name, its step. A folder that is named
after a step and has no manifest is therefore none of ours, or a copy that lost it: it is never restored and never
deleted.
"""

import re
import shutil
from pathlib import Path

from absl import logging

from aa_flax.alive import alive
from aa_flax.runs.manifest import has_manifest, write_manifest

_UNFINISHED = ".unfinished"
_REMAINS = re.compile(
    r"\.deleted-\d+"  # half deleted
    r"|\d+\.unfinished(\..*)?|\.\d+\.unfinished\.manifest\.json\.partial"  # not completely saved
    r"|\d+\.orbax-checkpoint-tmp.*|\.\d+\.manifest\.json\.partial"  # the same, of earlier versions
)


def saved_steps(folder: Path) -> list[int]:
    """Return the steps of the checkpoints whose saving was completed, oldest first; damaged ones too."""
    return sorted(int(child.name) for child in _numbered(folder) if has_manifest(child))


def unvouched(folder: Path) -> list[Path]:
    """Return the folders that are named as checkpoints are and have no manifest, sorted by step."""
    return sorted((child for child in _numbered(folder) if not has_manifest(child)), key=lambda child: int(child.name))


def unfinished(folder: Path, step: int) -> Path:
    """Return the folder that the checkpoint of a step is written to."""
    return folder / f"{step}{_UNFINISHED}"


def publish(folder: Path, step: int) -> None:
    """Give a checkpoint whose files are all written its manifest and its name."""
    written = unfinished(folder, step)
    write_manifest(written)
    written.rename(folder / str(step))
    alive()


def make_way(folder: Path, step: int) -> None:
    """Free the name of a checkpoint that is about to be saved.

    A checkpoint of ours is deleted: it is damaged, or the run would have gone on from there. A folder that is not
    proved ours is renamed.
    """
    there = folder / str(step)
    if has_manifest(there):
        delete_checkpoint(folder, step)
    elif there.exists():
        aside = next(name for i in range(10**6) if not (name := folder / f"{step}.unvouched-{i}").exists())
        there.rename(aside)
        logging.warning("%s has no manifest; it is kept as %s", there, aside.name)
    remove_remains(folder, step)


def delete_checkpoint(folder: Path, step: int) -> None:
    """Delete a checkpoint: first rename it, then remove its files, so that a kill leaves no half of a checkpoint."""
    doomed = folder / f".deleted-{step}"
    if doomed.exists():
        shutil.rmtree(doomed)
    (folder / str(step)).rename(doomed)
    shutil.rmtree(doomed, ignore_errors=True)


def remove_remains(folder: Path, step: int | None = None) -> None:
    """Remove what a killed run left of saves and deletions, of all steps or one; for the run that trains there only."""
    for child in folder.iterdir() if folder.is_dir() else ():
        numbers = re.findall(r"\d+", child.name)
        if _REMAINS.fullmatch(child.name) and (step is None or int(numbers[0]) == step):
            shutil.rmtree(child) if child.is_dir() else child.unlink()


def _numbered(folder: Path) -> list[Path]:
    return [child for child in folder.iterdir() if re.fullmatch("0|[1-9][0-9]*", child.name)] if folder.is_dir() else []
