"""The check of a prepared data set: its description, files, records, images, and labels, boxes or label maps."""

import functools
import os
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import jax
import numpy as np
import tensorflow_datasets as tfds
from array_record.python.array_record_module import ArrayRecordReader

from aa_flax.data.annotated import Objects
from aa_flax.data.damage import damage_in
from aa_flax.data.errors import DataError, one_line
from aa_flax.data.label_maps import IGNORED
from aa_flax.data.objects import object_reader
from aa_flax.data.prepared import Prepared, open_prepared
from aa_flax.data.record_source import RecordSource
from aa_flax.data.same_photographs import SamePhotographs
from aa_flax.data.sets.own import FOLDER_KINDS, stored_name
from aa_flax.data.shown import shown
from aa_flax.data.signals import open_split
from aa_flax.data.targets import Read
from aa_flax.data.truths import is_annotated
from aa_flax.literal import quoted

_CHUNK = 64  # examples that one thread reads at a time
_OF_FOLDERS = tuple(stored_name(prefix) for prefix in FOLDER_KINDS)


@dataclass
class Report:
    """The result of `check`: one line for each finding, naming file and index, and counts of what was checked."""

    findings: list[str]
    files: int = 0
    examples: int = 0  # in all splits, by the description of the data set
    read: int = 0  # examples that were decoded
    empty: int = 0  # images without objects, or whose pixels are of no class, among them, which is no fault
    has_label_maps: bool = False

    def __str__(self) -> str:
        found = f"{len(self.findings)} finding{'' if len(self.findings) == 1 else 's'}"
        what = "images whose pixels are all of no class" if self.has_label_maps else "images without objects"
        empty = f"; {self.empty:,} {what}" if self.empty else ""
        return f"{found}: {self.read:,} of {self.examples:,} examples looked at, in {self.files} files{empty}"


def check(folder: Path, sample: int | None = 1000) -> Report:
    """Check a prepared folder, without changing it, and return what was found.

    Args:
        folder: the folder with `dataset_info.json`, such as ~/tensorflow_datasets/imagenet2012/5.1.0.
        sample: how many examples of each split to decode, evenly spread; None for all.
    """
    if not (folder / "dataset_info.json").is_file():
        return Report([f"{folder}: no dataset_info.json, so nothing was prepared here to its end"])
    try:
        prepared = open_prepared(folder)
    except DataError as error:
        return Report([str(error)])
    report, same = Report([], has_label_maps=bool(prepared.label_map_key)), SamePhotographs(prepared)
    for split in prepared.builder.info.splits:
        _check_split(prepared, split, sample, report, same)
    report.findings += same.lines()
    known = {Path(str(file)).name for info in prepared.builder.info.splits.values() for file in info.filenames}
    for path in sorted(folder.glob("*.array_record*")):
        if path.name not in known:
            report.findings.append(f"{path}: belongs to no split of {prepared.builder.info.name}")
    return report


def _check_split(prepared: Prepared, split: str, sample: int | None, report: Report, same: SamePhotographs) -> None:
    info = prepared.builder.info.splits[split]
    files = [prepared.folder / Path(str(file)).name for file in sorted(info.filenames)]
    lengths = list(info.shard_lengths)
    report.files += len(files)
    report.examples += info.num_examples
    if not info.num_examples:
        report.findings.append(f"{prepared.folder}: split {split!r} has no examples")
    whole = [_file_is_whole(file, length, report) for file, length in zip(files, lengths, strict=True)]
    # Examples in a file that is not whole are skipped: the file's own finding is enough.
    indices = np.flatnonzero(np.repeat(whole, lengths))
    if sample is not None and len(indices) > sample:
        indices = indices[np.linspace(0, len(indices) - 1, sample).round().astype(int)]
    if not len(indices):
        return
    source = open_split(prepared, split, None if prepared.objects is None else _NoTargets(), missing_ok=True)
    labels, empty = _look(source, indices.tolist(), report, prepared, functools.partial(same.add, split))
    report.read += len(indices)
    annotated = is_annotated(prepared, split)
    report.empty += empty if annotated else 0
    absent = [name for label, name in enumerate(prepared.class_names) if label not in labels] if annotated else []
    if absent and len(indices) == info.num_examples:
        report.findings.append(f"{prepared.folder}: split {split!r} has no example of class {quoted(absent, 5)}")


def _file_is_whole(file: Path, expected: int, report: Report) -> bool:
    """Return whether a file exists, opens, and holds as many records as the description says; else report why not."""
    if not file.is_file():
        report.findings.append(f"{file}: missing, with {expected} examples")
        return False
    try:
        reader = ArrayRecordReader(str(file))
        count, options = reader.num_records(), reader.writer_options_string()
        reader.close()
    except Exception as error:
        report.findings.append(f"{file}: cannot be opened, truncated or damaged ({one_line(error, 200)})")
        return False
    group = [option for option in options.split(",") if option.startswith("group_size:")]
    if group and group[0] != "group_size:1":
        report.findings.append(
            f"{file}: written with {group[0]}, expected group_size:1; reads at random are slow, and one damaged record "
            f"takes its whole group along"
        )
    if count != expected:
        report.findings.append(f"{file}: {count} records, expected {expected}")
    return count == expected


class _NoTargets:
    """No targets: of a data set of detection all objects are looked at, crowds too."""

    shapes: Mapping[str, jax.ShapeDtypeStruct] = {}

    def reader(self, features: tfds.features.FeaturesDict) -> Read:
        return lambda record: {}


def _look(
    source: RecordSource,
    indices: Sequence[int],
    report: Report,
    prepared: Prepared,
    readable: Callable[[int, bytes], None],
) -> tuple[set[int], int]:
    """Decode each example and report each one that is damaged.

    Args:
        source: the split.
        indices: which examples.
        report: where the findings go.
        prepared: the data set.
        readable: called with index and stored image of each example that can be decoded.

    Returns:
        The labels of the examples that can be used, and how many of these have no objects, or pixels of a class,
        though others have.
    """
    own = prepared.folder.parent.name.startswith(_OF_FOLDERS)
    read = object_reader(prepared.objects, prepared.image_key) if prepared.objects else None

    def labels_of(index: int, faults: list[str]) -> set[int]:
        example = source[index]
        if prepared.label_map_key:
            pixels, labels = example["image"].shape[:2], example["labels"]
            if labels.shape != pixels:
                sizes = (f"{width} × {height}" for height, width in (labels.shape, pixels))
                raise DataError(f"{source.place(index)}: a label map of {' for an image of '.join(sizes)}")
            return {*np.unique(labels).tolist()} - {IGNORED}
        if read is None:
            return {int(example["label"])}
        try:
            objects = read(source.record(index))
        except ValueError as error:
            raise DataError(f"{source.place(index)}: {error}") from None
        faults += [f"{source.place(index)}: {fault}" for fault in _boxes(objects, example["image"].shape)]
        return {*objects.labels.tolist()}

    def look(start: int) -> tuple[list[str], set[int], int]:
        faults: list[str] = []
        labels: set[int] = set()
        empty = 0
        for index in indices[start : start + _CHUNK]:
            try:
                found = labels_of(index, faults)
                labels |= found
                empty += not found
                if prepared.has_signals:
                    continue
                encoded = source.encoded(index)
                readable(index, encoded)
                if fault := _let_through(encoded, own):
                    faults.append(f"{source.place(index)}: {fault}")
            except DataError as error:
                faults.append(str(error))
        return faults, labels, empty

    seen: set[int] = set()
    without = 0
    with warnings.catch_warnings(), ThreadPoolExecutor(os.cpu_count()) as pool:
        warnings.simplefilter("ignore")  # Pillow warns of metadata
        for faults, labels, empty in pool.map(look, range(0, len(indices), _CHUNK)):
            report.findings += faults
            seen |= labels
            without += empty
    return seen, without


def _boxes(objects: Objects, shape: tuple[int, ...]) -> Iterator[str]:
    """Yield what is wrong with each box that has no area or lies outside its image; some reach beyond in all sets."""
    height, width = shape[:2]
    for number, (x1, y1, x2, y2) in enumerate(objects.boxes.tolist()):
        if x1 == x2 or y1 == y2:
            yield f"object {number} has a box without area, {x1:g}, {y1:g}, {x2:g}, {y2:g}"
        elif x2 <= 0 or y2 <= 0 or x1 >= width or y1 >= height:
            yield f"object {number} lies outside the image of {width} × {height}: {x1:g}, {y1:g}, {x2:g}, {y2:g}"


def _let_through(encoded: bytes, own: bool) -> str:
    """Return what is wrong with an image that can be decoded, "" if nothing is."""
    if damage := damage_in(encoded):
        return f"decoded, but damaged ({damage})"
    if own and not shown(encoded, quiet=False).as_stored:
        return "shown otherwise than stored: turned, transparent or of more than 8 bits; prepare the folder again"
    return ""
