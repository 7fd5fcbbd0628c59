"""Opening a data set by name: one of this library, or any that TFDS has prepared as ArrayRecord."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from aa_flax.data.annotated import Truth
from aa_flax.data.errors import DataError
from aa_flax.data.label_maps import LabelMaps
from aa_flax.data.prepared import (
    Prepared,
    build_command,
    content_fingerprint,
    find_prepared,
    open_prepared,
    resolve_data_dir,
)
from aa_flax.data.sets.own import (
    EMBEDDED,
    FOLDER_KINDS,
    FROM_FOLDER,
    in_catalogue,
    is_own,
    kind_of_folder,
    open_origin,
    prepare,
    source_fingerprint,
    stored_name,
    takes_folder,
)
from aa_flax.data.signals import open_split
from aa_flax.data.source import Source
from aa_flax.data.statistics import as_pixel, mean_and_std
from aa_flax.data.targets import Targets
from aa_flax.data.truths import Annotations, category_ids, is_annotated, read_truths


@dataclass(frozen=True)
class Dataset:
    """A data set of images that is ready to be read.

    Attributes:
        name: the name that was given to `load`.
        class_names: the name of each class, in the order of the labels.
        image_shape: (h, w, c); h and w are None where images differ in size; of signals (*space, c).
        mean, std: mean and standard deviation per channel, of pixels in 0..1, for normalisation.
        splits: the number of examples of each split, by its name.
        fingerprint: a hash that changes when the data changes.
        folder: the folder in which the data is prepared.
    """

    name: str
    class_names: tuple[str, ...]
    image_shape: tuple[Any, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    splits: Mapping[str, int]
    fingerprint: str
    folder: Path
    _prepared: Prepared = field(repr=False, compare=False)

    @property
    def num_classes(self) -> int:
        """Return the number of classes."""
        return len(self.class_names)

    @property
    def mean_pixel(self) -> tuple[int, ...]:
        """Return the mean as a pixel, 0 to 255, which `train_batches(crop="pad", fill=...)` takes."""
        return as_pixel(self.mean)

    @property
    def has_signals(self) -> bool:
        """Return whether it has signals, see `aa_flax.data.signals`, and no images."""
        return self._prepared.has_signals

    @property
    def largest(self) -> tuple[int, ...]:
        """Return the largest size of signals along each axis; () of images."""
        own = tuple(self.image_shape[:-1])
        if not self.has_signals:
            return ()
        return tuple(self._prepared.metadata["largest"]) if None in own else own

    @property
    def has_objects(self) -> bool:
        """Return whether it is a data set of detection, whose images have a box and a class for each object."""
        return self._prepared.objects is not None

    @property
    def has_label_maps(self) -> bool:
        """Return whether it is a data set of segmentation, whose images have a class for each pixel."""
        return bool(self._prepared.label_map_key)

    @property
    def class_colors(self) -> tuple[tuple[int, ...], ...]:
        """Return red, green and blue, 0 to 255, of each class of label maps, () of one whose colour no file says.

        It is () as a whole where no class has a colour.
        """
        colors = self._prepared.metadata.get("colors") or ()
        return tuple(tuple(color or ()) for color in colors) if any(colors) else ()

    @property
    def category_ids(self) -> tuple[int, ...]:
        """Return the number of each class in the files of a data set of detection, which may have gaps."""
        return category_ids(self._prepared)

    def is_annotated(self, split: str) -> bool:
        """Return whether the photographs of a split are annotated; those of a test server are not."""
        return is_annotated(self._prepared, split)

    def truths(self, split: str) -> list[Truth]:
        """Return what is true of each photograph of a split of a data set of detection, in the order of its examples.

        Raises:
            DataError: the images have no objects, or a record is damaged.
        """
        return read_truths(self._prepared, split)

    def shared(self, one: str, other: str) -> int:
        """Return how many examples of the split `one` are in `other` too; both must be splits that `split` takes.

        Of a data set of detection, examples of the same photograph count, wherever they are stored.
        """
        chosen, others = self._chosen(one), self._chosen(other)
        count = sum(int((chosen[split] & others[split]).sum()) for split in chosen)
        for places in self._prepared.metadata.get("same_photographs", ()):
            elsewhere = any(others[split][index] for split, index in places)
            count += elsewhere * sum(chosen[split][index] and not others[split][index] for split, index in places)
        return int(count)

    def _chosen(self, split: str) -> dict[str, np.ndarray]:
        """Return which examples of each stored split, bool [examples], a split takes."""
        info = self._prepared.builder.info
        chosen = {name: np.zeros(each.num_examples, bool) for name, each in info.splits.items()}
        starts = {}
        for name, each in info.splits.items():
            ends = np.cumsum(each.shard_lengths)
            files = zip(sorted(each.filenames), ends, each.shard_lengths, strict=True)
            starts.update({Path(str(file)).name: (name, end - length) for file, end, length in files})
        for part in info.splits[split].file_instructions:
            name, start = starts[Path(str(part.filename)).name]
            chosen[name][start + part.skip : start + part.skip + part.take] = True
        return chosen

    def split(self, name: str, targets: Targets | None = None, *, fast_decode: bool = False) -> Source:
        """Return the examples of a split.

        Args:
            name: a split, "train", or in TFDS's notation a part, "train[:90%]", or a sum, "train+test".
            targets: what is read of an example beside its image; if not given, the class label, the boxes, or the
                label map.
            fast_decode: decode parts of JPEGs as `aa_flax.data.fast_jpeg` does, to nearly the same pixels.

        Raises:
            DataError: an unknown split, a notation that cannot be read, no examples, a missing file, or a missing
                package that `fast_decode` needs.
        """
        splits = self._prepared.builder.info.splits
        try:
            count = splits[name].num_examples
        # TFDS raises KeyError, ValueError or AssertionError, depending on what is wrong with the notation.
        except Exception:
            raise DataError(
                f"split {name!r} of {self.name}: expected one of {', '.join(self.splits)}, or a part such as "
                f"'{next(iter(self.splits), 'train')}[:90%]'"
            ) from None
        if not count:
            raise DataError(f"split {name!r} of {self.name} has no examples; sizes: {dict(self.splits)}")
        source = open_split(self._prepared, name, targets, fast_decode=fast_decode)
        if self.has_objects:
            source.annotations = Annotations(self._prepared, name)
        if self.has_label_maps:
            source.annotations = LabelMaps(source)
        return source


def available() -> list[str]:
    """Return the names of this library's data sets.

    `load` also opens folders of the user's own, such as `image_folder/NAME`, and data sets that TFDS has prepared.
    """
    return sorted([*EMBEDDED, *FROM_FOLDER])


def load(name: str, *, data_dir: str | Path = "", source_dir: str | Path = "", skip_damaged: bool = False) -> Dataset:
    """Open a data set. One of this library's that is not prepared yet is prepared from its files first.

    The data is looked for in this order: the files in `source_dir`; this library's prepared copy in `data_dir`; a copy
    in `data_dir` that TFDS has prepared as ArrayRecord, by its name in the TFDS catalogue, `name[/config][:version]`.
    Nothing is ever downloaded.

    Args:
        name: one of `available()`; for a folder of one's own `image_folder/NAME`, with boxes `coco_json/NAME`,
            `voc/NAME` or `yolo/NAME`, or with label maps `label_folder/NAME`; or a name of the TFDS catalogue.
        data_dir: the folder of prepared data; "" means $TFDS_DATA_DIR, or ~/tensorflow_datasets.
        source_dir: for a data set of this library that does not come with it, the folder with its files. It is needed
            once; when it is given again, its files must be those that were prepared.
        skip_damaged: when a folder of one's own is prepared, leave out the images that are missing or cannot be
            decoded, and name them on stderr; otherwise they are an error that names them.

    Raises:
        DataError: the data set is not there (the message says how to get it) or is faulty.
    """
    root = resolve_data_dir(data_dir)
    if source_dir or not in_catalogue(name):
        _require_own_name(name, root, catalogue=False)
    if name in EMBEDDED or (source_dir and takes_folder(name)):
        return _own(name, prepare(open_origin(name, source_dir, skip_damaged), root))
    if source_dir:
        *kinds, last = (f"{prefix}NAME" for prefix in FOLDER_KINDS)
        raise DataError(
            f"source_dir: only {', '.join([*FROM_FOLDER, *kinds])} and {last} are read from a folder, got the name "
            f"{name!r}"
        )
    folder = locate(name, data_dir)
    if folder.parent.name == stored_name(name):
        return _own(name, folder)
    return _opened(name, folder, content_fingerprint(folder))


def locate(name: str, data_dir: str | Path = "") -> Path:
    """Return the folder in which a data set is prepared, found as `load` finds it without a `source_dir`.

    Raises:
        DataError: the data set is not prepared; the message says how to get it.
    """
    root = resolve_data_dir(data_dir)
    _require_own_name(name, root)
    # By this name those stay open that another package has registered, where that package is not imported.
    if (is_own(name) or name.isidentifier()) and (folder := find_prepared(stored_name(name), root)):
        return folder
    if (not kind_of_folder(name) or in_catalogue(name)) and (folder := find_prepared(name, root)):
        return folder
    raise DataError(_how_to_get(name, root))


def _require_own_name(name: str, root: Path, catalogue: bool = True) -> None:
    """Raise DataError for the name of a kind of folders where a NAME of the user's own belongs after it.

    Args:
        name: such as "coco_json" or "coco_json/".
        root: the folder of prepared data, in which those of the kind are named.
        catalogue: whether the name may be meant as one of the TFDS catalogue, as "voc" may.
    """
    kind = f"{name.rstrip('/')}/"
    if kind not in FOLDER_KINDS or (catalogue and name == kind[:-1] and in_catalogue(name)):
        return
    start = stored_name(kind)
    there = sorted(path.name.removeprefix(start) for path in root.glob(f"{start}*") if path.is_dir())
    prepared = f"; prepared in {root}: {', '.join(f'{kind}{each}' for each in there[:5])}" if there else ""
    raise DataError(f"{name}: give your data set a name of its own, such as {kind}flowers{prepared}")


def is_prepared(name: str, data_dir: str | Path = "") -> bool:
    """Return whether `load` can open a data set without a `source_dir`; it always can open the embedded one."""
    if name in EMBEDDED:
        return True
    try:
        locate(name, data_dir)
    except DataError:
        return False
    return True


def _own(name: str, folder: Path) -> Dataset:
    return _opened(name, folder, source_fingerprint(folder))


def _opened(name: str, folder: Path, fingerprint: str) -> Dataset:
    prepared = open_prepared(folder)
    features = prepared.builder.info.features
    image_shape = tuple(features[prepared.image_key].shape)
    if prepared.has_signals:
        mean, std = (tuple(prepared.metadata[which]) for which in ("mean", "std"))
    else:
        mean, std = mean_and_std(name.partition(":")[0], image_shape[-1])
    return Dataset(
        name=name,
        class_names=prepared.class_names,
        image_shape=image_shape,
        mean=mean,
        std=std,
        splits=MappingProxyType({split: info.num_examples for split, info in prepared.builder.info.splits.items()}),
        fingerprint=fingerprint,
        folder=folder,
        _prepared=prepared,
    )


def _how_to_get(name: str, root: Path) -> str:
    ways = f", or run python -m aa_flax.data prepare {name} --source_dir=FOLDER"
    from_catalogue = f"prepare it from the TFDS catalogue: {build_command(name, root)}"
    if kind := kind_of_folder(name):
        catalogue = f", or {from_catalogue}" if in_catalogue(name) else ""
        holds = FOLDER_KINDS[kind].holds
        return (
            f"{name} is not prepared in {root}; name the folder that holds {holds} once as source_dir{ways}{catalogue}"
        )
    if name in FROM_FOLDER and not in_catalogue(name):
        return f"{name} is not prepared in {root}; name the folder with its file once as source_dir{ways}"
    if name in FROM_FOLDER:
        return (
            f"{name} is not prepared in {root}; either name the folder with the official files once as source_dir, "
            f"or {from_catalogue}"
        )
    mine = f"; of photographs of your own, {name}/NAME" if f"{name}/" in FOLDER_KINDS else ""
    return f"{name} is not prepared in {root}; {from_catalogue} (own data sets: {', '.join(available())}{mine})"
