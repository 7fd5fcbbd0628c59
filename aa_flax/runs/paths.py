"""Where a run may lie: a folder on a disk, or one of a bucket; what either can do."""

import re
import shutil
from dataclasses import dataclass
from pathlib import Path

from etils import epath

from aa_flax.alive import alive
from aa_flax.runs.buckets.bucket_path import SCHEME, BucketPath
from aa_flax.runs.errors import RunDirectoryError

RunPath = Path | BucketPath
"""The path of a run or of something in it."""


def run_path(name: object) -> RunPath:
    """Return the absolute path that a user names, so that it stays the same when the process goes to another folder.

    Raises:
        RunDirectoryError: it names nothing, a home directory that there is not, or storage of another kind.
    """
    if isinstance(name, BucketPath):
        return name
    if not isinstance(name, str | Path) or not str(name).strip():
        raise RunDirectoryError(f"a run directory must be named by a string or a Path, got {name!r}")
    if url := re.match(r"(\w{2,}):/(/?)", str(name)):
        if url[1] != "gs":
            raise RunDirectoryError(f"{name}: a run lies in a folder or in gs://BUCKET/PATH; mount other storage")
        return BucketPath.of(SCHEME + str(name)[len(url[0]) :])  # Path has made gs:/ of gs://
    try:
        return Path(name).expanduser().absolute()
    except RuntimeError:
        raise RunDirectoryError(f"{name}: no such home directory, or HOME is not set") from None


@dataclass(frozen=True)
class File:
    """A file or object.

    Attributes:
        size: bytes.
        changed: when it was written, in seconds since 1970.
        md5: in hexadecimal digits, where the storage knows it without reading the file; else "".
    """

    size: int
    changed: float
    md5: str = ""


def files_below(folder: RunPath) -> dict[str, File]:
    """Return all files below a folder by their relative names, sorted."""
    if isinstance(folder, BucketPath):
        return {name: File(each.size, each.updated, each.md5) for name, each in sorted(folder.objects().items())}
    found = {}
    for file in sorted(folder.rglob("*")):
        if file.is_file():
            facts = file.stat()
            found[str(file.relative_to(folder))] = File(facts.st_size, facts.st_mtime)
    return found


def for_orbax(path: RunPath) -> epath.Path:
    """Return a path as Orbax takes it, which reaches buckets by itself."""
    return epath.Path(str(path))


def remove_tree(folder: RunPath, ignore_errors: bool = False) -> None:
    """Remove a folder with all that is in it; what cannot be removed of a disk stays if errors are ignored."""
    if isinstance(folder, Path):
        shutil.rmtree(folder, ignore_errors=ignore_errors)
        return
    for name in folder.objects():
        (folder / name).unlink()
        alive()


def move_tree(folder: RunPath, to: RunPath) -> None:
    """Give a folder another name beside it; in a bucket file by file."""
    if isinstance(folder, Path) or isinstance(to, Path):
        assert isinstance(folder, Path) and isinstance(to, Path)
        folder.rename(to)
        return
    names = list(folder.objects())
    for name in names:
        folder.store.copy((folder / name).key, (to / name).key)
        alive()
    for name in names:
        (folder / name).unlink()
