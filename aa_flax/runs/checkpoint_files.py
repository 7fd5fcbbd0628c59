"""The folders of checkpoints: which are complete, which are remains of a killed run, and which are not proved ours.

On a disk a save is written to `STEP.unfinished`, gets its manifest there, and then its name, its step. In a bucket,
where nothing can be renamed, it is written to its own name, and an empty object `.STEP.unfinished` beside it says so
until the manifest is there. A folder that is named after a step and has neither is therefore none of ours, or a copy
that lost its manifest: it is never restored and never deleted.
"""

import re
from pathlib import Path

from absl import logging

from aa_flax.alive import alive
from aa_flax.runs.buckets.bucket_path import BucketPath
from aa_flax.runs.manifest import NAME, has_manifest, write_manifest
from aa_flax.runs.paths import RunPath, move_tree, remove_tree

_UNFINISHED = ".unfinished"
_REMAINS = re.compile(
    r"\.deleted-\d+"  # half deleted
    r"|\d+\.unfinished(\..*)?|\.\d+\.unfinished\.manifest\.json\.partial"  # not completely saved
    r"|\d+\.orbax-checkpoint-tmp.*|\.\d+\.manifest\.json\.partial"  # the same, of earlier versions
)
_CLAIM = re.compile(rf"\.(\d+)\{_UNFINISHED}")


def saved_steps(folder: RunPath) -> list[int]:
    """Return the steps of the checkpoints whose saving was completed, oldest first; damaged ones too."""
    return sorted(int(child.name) for child in _numbered(folder) if has_manifest(child))


def unvouched(folder: RunPath) -> list[RunPath]:
    """Return the folders that are named as checkpoints are and are not proved ours, sorted by step."""
    others = [child for child in _numbered(folder) if not has_manifest(child)]
    if isinstance(folder, BucketPath) and others:
        claimed = _claimed(folder)
        others = [child for child in others if int(child.name) not in claimed]
    return sorted(others, key=lambda child: int(child.name))


def unfinished(folder: RunPath, step: int) -> RunPath:
    """Return the folder that the checkpoint of a step is written to, after `make_way`."""
    return folder / (f"{step}{_UNFINISHED}" if isinstance(folder, Path) else str(step))


def publish(folder: RunPath, step: int) -> None:
    """Give a checkpoint whose files are all written its manifest and its name."""
    written = unfinished(folder, step)
    write_manifest(written)
    if isinstance(folder, BucketPath):
        _claim(folder, step).unlink()
    else:
        move_tree(written, folder / str(step))
    alive()


def make_way(folder: RunPath, step: int) -> None:
    """Free the name of a checkpoint that is about to be saved.

    A checkpoint of ours is deleted: it is damaged, or the run would have gone on from there. A folder that is not
    proved ours is renamed.
    """
    remove_remains(folder, step)
    there = folder / str(step)
    if has_manifest(there):
        delete_checkpoint(folder, step)
    elif there.exists():
        aside = next(name for i in range(10**6) if not (name := folder / f"{step}.unvouched-{i}").exists())
        move_tree(there, aside)
        logging.warning("%s has no manifest; it is kept as %s", there, aside.name)
    if isinstance(folder, BucketPath):
        _claim(folder, step).write_bytes(b"")


def delete_checkpoint(folder: RunPath, step: int) -> None:
    """Delete a checkpoint: first what makes it one, then its files, so that a kill leaves no half of a checkpoint."""
    if isinstance(folder, BucketPath):
        _claim(folder, step).write_bytes(b"")
        _delete_claimed(folder, step)
        return
    doomed = folder / f".deleted-{step}"
    if doomed.exists():
        remove_tree(doomed)
    (folder / str(step)).rename(doomed)
    remove_tree(doomed, ignore_errors=True)


def remove_remains(folder: RunPath, step: int | None = None) -> None:
    """Remove what a killed run left of saves and deletions, of all steps or one; for the run that trains there only."""
    if not folder.is_dir():
        return
    for child in folder.iterdir():
        numbers = re.findall(r"\d+", child.name)
        if _REMAINS.fullmatch(child.name) and (step is None or int(numbers[0]) == step):
            remove_tree(child) if child.is_dir() else child.unlink()
    if not isinstance(folder, BucketPath):
        return
    for claimed in _claimed(folder):
        if step not in (None, claimed):
            continue
        if has_manifest(folder / str(claimed)):  # complete; a kill came before the claim was dropped
            _claim(folder, claimed).unlink()
        else:
            _delete_claimed(folder, claimed)


def _delete_claimed(folder: BucketPath, step: int) -> None:
    (folder / str(step) / NAME).unlink()
    remove_tree(folder / str(step))
    _claim(folder, step).unlink()


def _claim(folder: BucketPath, step: int) -> BucketPath:
    """Return the object that says that the folder of a step is ours, and not complete."""
    return folder / f".{step}{_UNFINISHED}"


def _claimed(folder: BucketPath) -> set[int]:
    return {int(found[1]) for child in folder.iterdir() if (found := _CLAIM.fullmatch(child.name))}


def _numbered(folder: RunPath) -> list[RunPath]:
    return [child for child in folder.iterdir() if re.fullmatch("0|[1-9][0-9]*", child.name)] if folder.is_dir() else []
