"""Data sets that TFDS has prepared: finding them in `data_dir` and opening them read-only.

Nothing is generated or downloaded. TensorFlow is not needed, because only the folder's own description is read.
"""

import hashlib
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tensorflow_datasets as tfds

from aa_flax.data.errors import DataError
from aa_flax.data.label_maps import find_label_maps
from aa_flax.data.objects import ObjectFeatures, find_objects
from aa_flax.data.targets import class_labels, images, signals

_NAME = re.compile(r"\w+(/[\w.-]+)?(:\d+\.\d+\.\d+)?")
_FEATURE = re.compile(r"tensorflow_datasets\.core\.features\.\w+\.\w+")
"""The classes of features that may be read. TFDS imports the module of whatever class a folder names."""
_VERSION = re.compile(r"\d+\.\d+\.\d+")


def resolve_data_dir(data_dir: str | Path) -> Path:
    """Return the absolute path of `data_dir`, where "" stands for $TFDS_DATA_DIR or else ~/tensorflow_datasets.

    Raises:
        DataError: it is the URL of a bucket, lies in a home directory that there is not, or has bytes that are no
            UTF-8, which the readers of records refuse.
    """
    given = data_dir or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets"
    if re.match(r"\w{2,}:/", str(given)):
        raise DataError(f"data_dir: {given} is no folder; a bucket must be mounted")
    try:
        folder = Path(given).expanduser().absolute()
    except RuntimeError:
        raise DataError(
            f"data_dir: {given} cannot be found without a home directory (HOME is not set); name another folder as "
            "data_dir or in TFDS_DATA_DIR"
        ) from None
    _require_utf8(folder)
    return folder


def _require_utf8(folder: Path) -> None:
    try:
        os.fsencode(folder).decode()
    except UnicodeDecodeError:
        raise DataError(f"{folder}: the path has bytes that are no UTF-8; prepared data needs another folder") from None


def find_prepared(name: str, data_dir: Path) -> Path | None:
    """Return the folder of `name[/config][:version]` in `data_dir`, or None if it is not prepared.

    Without a version, the newest one that is prepared is taken.

    Raises:
        DataError: the name does not have that form, or several configs are prepared and the name has none.
    """
    if not _NAME.fullmatch(name):
        raise DataError(f"{name!r} is no name of a data set, expected name[/config][:version]")
    base, _, version = name.partition(":")
    root = data_dir / base
    folder = _newest(root, version)
    if folder is not None or "/" in base or not root.is_dir():
        return folder
    configs = {
        child.name: found for child in sorted(root.iterdir()) if child.is_dir() and (found := _newest(child, version))
    }
    if len(configs) > 1:
        raise DataError(f"{root}: several configs are prepared, name one: {', '.join(f'{base}/{c}' for c in configs)}")
    return next(iter(configs.values()), None)


def _newest(folder: Path, version: str) -> Path | None:
    if not folder.is_dir():
        return None
    found = [
        child
        for child in folder.iterdir()
        if _VERSION.fullmatch(child.name)
        and (not version or child.name == version)
        and (child / "dataset_info.json").is_file()
    ]
    return max(found, key=lambda child: tuple(map(int, child.name.split("."))), default=None)


@dataclass(frozen=True)
class Prepared:
    """A prepared folder of images with one label each, objects of one label each, or label maps; or of signals.

    Attributes:
        folder: the folder.
        builder: TFDS's description of it.
        image_key: the name of the image, or of the signal, among the features.
        label_key: the name of the class of an image; "" where the objects or the pixels have classes.
        objects: where the records have their objects; None where the images or the pixels have classes.
        label_map_key: the name of the label map, the classes of an image's pixels; "" where there is none.
        class_names: the name of each class.
        metadata: what this library stored of the data set, empty for one that TFDS has prepared.
    """

    folder: Path
    builder: tfds.core.DatasetBuilder
    image_key: str
    label_key: str
    objects: ObjectFeatures | None
    label_map_key: str
    class_names: tuple[str, ...]
    metadata: Mapping[str, Any]

    @property
    def has_signals(self) -> bool:
        """Return whether the folder holds signals, arrays of numbers, and no images."""
        return bool(signals(self.builder.info.features))


def open_prepared(folder: Path) -> Prepared:
    """Open a prepared folder.

    Raises:
        DataError: the path is no UTF-8; the description is damaged, or names a class that is not TFDS's own; the format
            is not ArrayRecord; or an example does not have exactly one image, grey or RGB in uint8, and one class
            label, or else one sequence of objects with a box and a class each, or one label map; or exactly one signal
            and one class label.
    """
    _require_utf8(folder)
    try:
        for name in _classes(json.loads((folder / "features.json").read_text())):
            if not _FEATURE.fullmatch(name):
                raise ValueError(f"features.json names {name!r}, which is no feature of TFDS; it is not imported")
        builder = tfds.builder_from_directory(folder)
    # TFDS raises whatever parsing its own two JSON files raises.
    except Exception as error:
        raise DataError(f"{folder}: the description of the data set cannot be read ({error})") from None
    _require_array_record(builder, folder)
    features = builder.info.features
    if not isinstance(features, tfds.features.FeaturesDict):
        raise DataError(f"{folder}: not a dictionary of features, so none of images")
    found, labels = images(features) or signals(features), class_labels(features)
    objects = [] if labels else find_objects(features)
    maps = [] if labels or objects else find_label_maps(features)
    if len(found) != 1 or len(labels) + len(objects) + len(maps) != 1:
        of_objects = f"; objects: {', '.join(form.key for form in objects)}" if objects else ""
        raise DataError(
            f"{folder}: expected exactly one image and one class label; "
            f"images: {', '.join(found) or 'none'}; class labels: {', '.join(labels) or 'none'}{of_objects}"
        )
    image = features[found[0]]
    if images(features) and (image.shape[-1] not in (1, 3) or image.np_dtype != "uint8"):
        raise DataError(
            f"{folder}: {found[0]!r} has {image.shape[-1]} channels of {image.np_dtype}, expected 1 or 3 of uint8"
        )
    metadata = _metadata(folder)
    names = _class_names(folder, metadata, objects[0].classes if objects else features[[*labels, *maps][0]])
    return Prepared(
        folder=folder,
        builder=builder,
        image_key=found[0],
        label_key=labels[0] if labels else "",
        objects=objects[0] if objects else None,
        label_map_key=maps[0] if maps else "",
        class_names=names,
        metadata=metadata,
    )


def names_in_lines(names: Sequence[str]) -> list[str]:
    """Return class names as TFDS can keep them, each in a line of ASCII that is stripped when it is read.

    Backslash and all that is not ASCII or not printable become escapes; so do spaces at the ends. What this library
    reads are the names themselves, beside them in `metadata.json`.
    """
    escaped = (name.encode("unicode_escape").decode() for name in names)
    return [re.sub(r"^ | $", r"\\x20", name) for name in escaped]


def _metadata(folder: Path) -> Mapping[str, Any]:
    """Return what this library stored of the data set in `folder`, empty where TFDS has prepared it.

    Raises:
        DataError: it is damaged.
    """
    path = folder / "metadata.json"
    try:
        metadata = json.loads(path.read_bytes())
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: damaged ({error}); remove {folder} and prepare again") from None
    return metadata if isinstance(metadata, dict) else {}


def _class_names(folder: Path, metadata: Mapping[str, Any], label: Any) -> tuple[str, ...]:
    """Return the names of the classes, as this library stored them, or else as TFDS did.

    Raises:
        DataError: they are not as many as there are classes.
    """
    # An older version of this library has stored none.
    names = metadata.get("class_names", label.names)
    if not isinstance(names, list) or len(names) != label.num_classes or not all(isinstance(n, str) for n in names):
        path = folder / "metadata.json"
        raise DataError(f"{path}: expected the names of {label.num_classes} classes; remove {folder} and prepare again")
    return tuple(names)


def _classes(description: Any) -> Iterator[str]:
    """Yield the names of all classes in the content of a features.json.

    They stand under either spelling of the Protobuf field or, as older versions of TFDS wrote it, under "type". A part
    of the description may be JSON inside a string.
    """
    if isinstance(description, list):
        for item in description:
            yield from _classes(item)
    if isinstance(description, dict):
        for key, value in description.items():
            if key in ("pythonClassName", "python_class_name", "type") and isinstance(value, str):
                yield value
            yield from _classes(json.loads(value) if key == "json" and isinstance(value, str) else value)


def _require_array_record(builder: tfds.core.DatasetBuilder, folder: Path) -> None:
    stored = builder.info.file_format
    if stored is not tfds.core.FileFormat.ARRAY_RECORD:
        raise DataError(
            f"{folder}: prepared as {stored.value if stored else 'an unknown format'}, which cannot be read at random; "
            f"it must be array_record: remove the folder, then {build_command(builder.info.name, folder.parent.parent)}"
        )


def build_command(name: str, data_dir: Path) -> str:
    """Return the command that prepares a data set of the TFDS catalogue (it needs the extra `prepare`)."""
    return f"python -m aa_flax.data prepare {name.partition(':')[0]} --data_dir={data_dir}"


def content_fingerprint(folder: Path) -> str:
    """Return a hash of the folder's description and of the name and size of each of its files."""
    digest = hashlib.sha256()
    for path in sorted(folder.iterdir()):
        digest.update(f"{path.name} {path.stat().st_size}\n".encode())
        if path.suffix == ".json":
            digest.update(path.read_bytes())
    return digest.hexdigest()
