"""The base of all data sets of this library: a TFDS builder that stores images that are already encoded.

TFDS needs TensorFlow to encode pixels, but not to store bytes, so each `Origin` encodes images with Pillow or passes on
the bytes of its files. Examples keep the order of the official files: the index of an example is its row there, unless
an `Origin` says otherwise.
"""

import abc
import hashlib
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import tensorflow_datasets as tfds

from aa_flax.alive import reporting
from aa_flax.data.errors import DataError
from aa_flax.data.prepared import names_in_lines

Record = Mapping[str, Any]
"""The values of an example by the names of its features."""
Example = tuple[bytes, int] | Record
"""An example of a split: (encoded image, label) where these are its only features, or else its record."""


class Origin(abc.ABC):
    """The source files of one data set: where they are and what they contain."""

    stored_name: str  # the name of the folder on disk, which is no name of the TFDS catalogue
    description: str
    homepage: ClassVar[str]
    image_shape: ClassVar[tuple[int | None, int | None, int]]
    encoding: ClassVar[str | None] = "png"
    supervised_keys: tuple[str, str] | None = ("image", "label")
    version: str = "1.0.0"  # changes when other data is written from the same files

    @property
    @abc.abstractmethod
    def files(self) -> list[Path]:
        """Return the paths of the files that are read, all of which exist."""

    @property
    @abc.abstractmethod
    def class_names(self) -> list[str]: ...

    @abc.abstractmethod
    def splits(self) -> Mapping[str, Iterator[Example]]:
        """Return the examples of each split by its name, in the order of the files; iterating checks each example."""

    def features(self) -> dict[str, tfds.features.FeatureConnector]:
        """Return the features of an example by name."""
        return {"image": self.image_feature(), "label": self.class_feature()}

    def image_feature(self) -> tfds.features.Image:
        """Return the feature of the image, which is stored encoded."""
        return tfds.features.Image(shape=self.image_shape, encoding_format=self.encoding)

    def class_feature(self) -> tfds.features.ClassLabel:
        """Return the feature of the number of a class."""
        return tfds.features.ClassLabel(names=names_in_lines(self.class_names))

    def metadata(self) -> Mapping[str, Any]:
        """Return what is stored of the data set besides its class names and checksums, as JSON has it.

        Lists and dictionaries in it may be filled until the last example has been taken.
        """
        return {}

    @property
    def notes(self) -> Sequence[str]:
        """Return lines about what was left out, said once the data set is prepared."""
        return ()

    def checksums(self) -> dict[str, str]:
        """Return the SHA-256 of the content of each file by its name; raise DataError if one cannot be read."""
        sums = {}
        for path in reporting(self.files):
            try:
                with path.open("rb") as file:
                    sums[path.name] = hashlib.file_digest(file, "sha256").hexdigest()
            except OSError as error:
                raise DataError(f"{path}: cannot be read ({error.strerror or error})") from None
        return sums

    def checked_label(self, label: int, file: Path, index: int) -> int:
        """Return `label`; if no class has that number, raise DataError that names file and index."""
        if not 0 <= label < len(self.class_names):
            raise DataError(f"{file}: example {index} has label {label}, expected 0 to {len(self.class_names) - 1}")
        return int(label)


def require_files(folder: Path, names: list[str], what: str) -> list[Path]:
    """Return the paths of `names` in `folder`; if some are missing, raise DataError that lists them.

    Args:
        folder: the folder.
        names: the names of the files.
        what: the name of the data set, for the message.
    """
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        raise DataError(f"{folder}: {what} needs {', '.join(names)}; missing: {', '.join(missing)}")
    return [folder / name for name in names]


def stored_name_of_folder(name: str, prefix: str) -> str:
    """Return the stored name of a folder of the user's own that is called `name`, which is the prefix and a NAME.

    Raises:
        DataError: NAME is no identifier.
    """
    label = name.removeprefix(prefix)
    if not re.fullmatch(r"\w+", label, re.ASCII):
        raise DataError(f"{name!r}: expected {prefix}NAME, where NAME has letters, digits and underscores only")
    return f"aa_{prefix.replace('/', '_')}{label}"


def names_and_sizes(paths: Iterable[Path]) -> str:
    """Return a hash of the names and sizes of files.

    They are not read, because that would take hours for the images of a large data set.
    """
    return hashlib.sha256(b"".join(map(_described, paths))).hexdigest()


def _described(path: Path) -> bytes:
    try:
        size = path.stat().st_size
    except OSError as error:  # a link that leads nowhere, which is left to decoding
        size = -(error.errno or 1)
    return os.fsencode(path.name) + f" {size}\n".encode()


def make_builder(origin: Origin, checksums: dict[str, str], data_dir: Path) -> tfds.core.GeneratorBasedBuilder:
    """Return the TFDS builder that stores `origin` under `data_dir` as ArrayRecord, with `checksums` as metadata."""

    # There is a class for each origin, because TFDS takes name and version from the class. It is not registered,
    # because `tfds.load` could not give it the source files.
    class Builder(_Builder, skip_registration=True):  # type: ignore[call-arg]
        name = origin.stored_name
        VERSION = tfds.core.Version(origin.version)
        RELEASE_NOTES: ClassVar[dict[str, str]] = {origin.version: ""}

    return Builder(origin=origin, checksums=checksums, data_dir=data_dir, file_format="array_record")


class _Builder(tfds.core.GeneratorBasedBuilder, skip_registration=True):  # type: ignore[call-arg]
    def __init__(self, *, origin: Origin, checksums: dict[str, str], **kwargs: Any):
        self._origin, self._checksums = origin, checksums
        super().__init__(**kwargs)

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description=self._origin.description,
            homepage=self._origin.homepage,
            features=tfds.features.FeaturesDict(self._origin.features()),
            supervised_keys=self._origin.supervised_keys,
            disable_shuffling=True,
            metadata=tfds.core.MetadataDict(
                source_sha256=self._checksums, class_names=self._origin.class_names, **self._origin.metadata()
            ),
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
        return {name: self._generate_examples(examples) for name, examples in self._origin.splits().items()}

    def _generate_examples(self, examples: Iterator[Example]) -> Iterator[tuple[int, Record]]:
        for index, example in enumerate(reporting(examples)):
            yield index, {"image": example[0], "label": example[1]} if isinstance(example, tuple) else example
