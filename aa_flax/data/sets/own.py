"""The data sets of this library: their names, and their preparation, once, from the files that the user names."""

import contextlib
import hashlib
import io
import json
import re
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import tensorflow_datasets as tfds

from aa_flax.alive import reporting_growth
from aa_flax.data.errors import DataError
from aa_flax.data.facts import FACTS, Facts
from aa_flax.data.locking import lock
from aa_flax.data.prepared import find_prepared, open_prepared
from aa_flax.data.sets.arrays import PREFIX as ARRAYS
from aa_flax.data.sets.arrays import Arrays
from aa_flax.data.sets.bccd import BccdSubset
from aa_flax.data.sets.builder import Origin, make_builder
from aa_flax.data.sets.cifar import Cifar10, Cifar100
from aa_flax.data.sets.coco_json import CocoJson
from aa_flax.data.sets.fashion_mnist import FashionMnist, FashionMnistSubset
from aa_flax.data.sets.image_folder import PREFIX, ImageFolder
from aa_flax.data.sets.label_folder import LabelFolder
from aa_flax.data.sets.time_series import PREFIX as TS
from aa_flax.data.sets.time_series import TimeSeries
from aa_flax.data.sets.voc import Voc
from aa_flax.data.sets.yolo import Yolo
from aa_flax.data.statistics import STATISTICS, Moments
from aa_flax.literal import literal, told_apart

# EMBEDDED data sets come with the library; those FROM_FOLDER need a folder with their files.
EMBEDDED: dict[str, Callable[[], Origin]] = {"fashion_mnist_subset": FashionMnistSubset, "bccd_subset": BccdSubset}
FROM_FOLDER: dict[str, Callable[[Path], Origin]] = {
    "fashion_mnist": FashionMnist,
    "cifar10": Cifar10,
    "cifar100": Cifar100,
}


@dataclass(frozen=True)
class FolderKind:
    """A kind of folders of the user's own: how it is read, and what it holds, in words."""

    origin: Callable[[str, Path, bool], Origin]
    holds: str


FOLDER_KINDS: dict[str, FolderKind] = {
    "coco_json/": FolderKind(CocoJson, "annotations/instances_train2017.json and train2017/*.jpg"),
    "voc/": FolderKind(Voc, "Annotations/*.xml, JPEGImages/*.jpg and ImageSets/Main/train.txt"),
    "yolo/": FolderKind(Yolo, "images/train/*.jpg and labels/train/*.txt"),
    TS: FolderKind(TimeSeries, "NAME_TRAIN.ts and NAME_TEST.ts"),
    ARRAYS: FolderKind(Arrays, "train.npz and test.npz"),
    "label_folder/": FolderKind(LabelFolder, "images/train/*.jpg and annotations/train/*.png"),
    PREFIX: FolderKind(ImageFolder, "train/CLASS/*.jpg"),
}
"""Kinds of folders by the prefix of their names."""
_VOC_OF_TFDS = re.compile(r"voc(/(2007|2012))?(:.*)?")
_ADDED: set[str] = set()
"""Names in `FROM_FOLDER` that are not this library's."""


def register(name: str, origin: Callable[[Path], Origin], facts: Facts, mean: Moments, std: Moments) -> None:
    """Let `load` read another data set from a folder that the user names.

    Once it is prepared, `load` opens it without this call too.

    Args:
        name: for configs; letters, digits and underscores. Its `origin.stored_name` is "aa_" and this name.
        origin: made of the folder, or of a file in it.
        facts: sizes, by which runs are planned where the files are not.
        mean, std: of each channel, of pixels in 0..1.

    Raises:
        ValueError: the name is taken by a data set of this library.
    """
    if name in EMBEDDED or (name in FROM_FOLDER and name not in _ADDED):
        raise ValueError(f"a data set named {name!r} is this library's own")
    FROM_FOLDER[name], FACTS[name], STATISTICS[name] = origin, facts, (mean, std)
    _ADDED.add(name)


def is_own(name: str) -> bool:
    """Return whether this library prepares the data set of that name itself."""
    return name in EMBEDDED or takes_folder(name)


def kind_of_folder(name: str) -> str:
    """Return the prefix of the name of a folder of the user's own, "" if it has none of `FOLDER_KINDS`."""
    return next((prefix for prefix in FOLDER_KINDS if name.startswith(prefix)), "")


def takes_folder(name: str) -> bool:
    """Return whether a data set is prepared from a folder that the user names."""
    return name in FROM_FOLDER or bool(kind_of_folder(name))


def in_catalogue(name: str) -> bool:
    """Return whether a name may be one of the TFDS catalogue: it is not one that only this library has."""
    own = name in EMBEDDED or name in _ADDED or bool(kind_of_folder(f"{name}/"))
    return not own or bool(_VOC_OF_TFDS.fullmatch(name))


def stored_name(name: str) -> str:
    """Return the name of the folder of this library's data set `name` in `data_dir`, which is none of TFDS's names."""
    return f"aa_{name.replace('/', '_')}"


def open_origin(name: str, source_dir: str | Path, skip_damaged: bool = False) -> Origin:
    """Return the source files of one of this library's data sets.

    Args:
        name: the name of the data set.
        source_dir: the folder with its files; "" for the embedded data set.
        skip_damaged: for a folder of the user's own, leave out the images that are missing or cannot be decoded.

    Raises:
        DataError: there is no such folder, files are missing or unreadable, a folder is given for the embedded data
            set, or damaged files are to be left out of another data set than a folder of the user's own.
    """
    kind = kind_of_folder(name)
    if skip_damaged and not kind:
        may = ", ".join(f"{prefix}NAME" for prefix in reversed(FOLDER_KINDS))
        raise DataError(f"skip_damaged: only {may} may leave out images, got the name {name!r}")
    if name in EMBEDDED:
        if source_dir:
            raise DataError(f"source_dir: {name} comes with the library and takes no folder, got {str(source_dir)!r}")
        return EMBEDDED[name]()
    folder = Path(source_dir).expanduser().absolute()
    if not folder.exists():
        raise DataError(f"source_dir: no such folder: {folder}")
    return FOLDER_KINDS[kind].origin(name, folder, skip_damaged) if kind else FROM_FOLDER[name](folder)


def prepare(origin: Origin, data_dir: Path) -> Path:
    """Write `origin` into `data_dir` unless it is there already, and return the prepared folder.

    Two processes may call this at once: one prepares, the other waits and uses the result.

    Raises:
        DataError: the source files are faulty, `data_dir` cannot be written, or the data set was prepared from other
            files than these.
    """
    checksums = origin.checksums()
    name = f"{origin.stored_name}:{origin.version}"
    # This look needs no lock, so that prepared data can be used on a disk that cannot be written.
    folder = find_prepared(name, data_dir)
    if folder is not None and source_checksums(folder) == checksums:
        return folder
    with reporting_growth(data_dir / origin.stored_name), _locked(data_dir, origin.stored_name) as alone:
        folder = find_prepared(name, data_dir)
        if folder is None:
            _write(origin, checksums, data_dir, alone)
            folder = find_prepared(name, data_dir)
            assert folder is not None
            _require_names(folder, origin.class_names)
            for line in origin.notes:
                print(literal(line), file=sys.stderr, flush=True)
        elif (before := source_checksums(folder)) != checksums:
            changed = sorted(
                name for name in before.keys() | checksums.keys() if before.get(name) != checksums.get(name)
            )
            raise DataError(
                f"{origin.files[0].parent}: other files than those that were prepared "
                f"({', '.join(told_apart(changed))}); to prepare these instead, remove {folder}"
            )
    return folder


def source_checksums(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of each file from which one of this library's data sets was prepared, by the file's name.

    Raises:
        DataError: the metadata in `folder` is missing or damaged.
    """
    path = folder / "metadata.json"
    try:
        return dict(json.loads(path.read_bytes())["source_sha256"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path}: damaged ({error}); remove {folder} and prepare again") from None


def source_fingerprint(folder: Path) -> str:
    """Return a hash of the files from which one of this library's data sets was prepared, equal on all machines."""
    content = json.dumps([folder.parent.name, folder.name, source_checksums(folder)], sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()


def _require_names(folder: Path, names: Sequence[str]) -> None:
    """Remove what was just prepared and raise DataError unless it has the class names that it was prepared from."""
    found = open_prepared(folder).class_names
    if found != tuple(names):
        shutil.rmtree(folder, ignore_errors=True)
        wrong = [name for name, read in zip(names, found, strict=False) if name != read] or list(names)
        raise DataError(f"{folder}: class names cannot be stored: {', '.join(map(ascii, wrong[:3]))}; removed again")


def _write(origin: Origin, checksums: dict[str, str], data_dir: Path, alone: bool) -> None:
    # Remove what a killed process has left, unless without a lock another process may be writing it.
    for leftover in (data_dir / origin.stored_name).glob("*incomplete*") if alone else ():
        shutil.rmtree(leftover, ignore_errors=True)
    builder = make_builder(origin, checksums, data_dir)
    try:
        # TFDS writes into a folder of another name and renames it at the end.
        with _quiet(), tempfile.TemporaryDirectory() as unused:
            builder.download_and_prepare(
                download_dir=unused, download_config=tfds.download.DownloadConfig(try_download_gcs=False)
            )
    except OSError as error:
        raise DataError(f"{data_dir}: cannot prepare {origin.stored_name} ({error.strerror or error})") from None


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Suppress TFDS's progress bars and its lines on the terminal, which mention a download that does not happen."""
    tfds.disable_progress_bar()
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        tfds.enable_progress_bar()


@contextlib.contextmanager
def _locked(data_dir: Path, name: str) -> Iterator[bool]:
    """Keep other processes from preparing a data set while open; yield whether that is so, see `lock`."""
    try:
        data_dir.mkdir(parents=True, exist_ok=True)
        file = (data_dir / f".{name}.lock").open("w")
    except OSError as error:
        raise DataError(f"data_dir: cannot write to {data_dir} ({error.strerror or error})") from None
    with file:
        yield lock(file, wait=True)
