"""A source that reads the examples of a prepared data set from its files."""

import bisect
import functools
from collections.abc import Callable, Mapping, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

from aa_flax.data.array_source import ArraySource
from aa_flax.data.boxes import Boxes
from aa_flax.data.errors import DataError, one_line
from aa_flax.data.fast_jpeg import decode_part_fast, require_packages
from aa_flax.data.images import Interpolation, decode_image, decode_part
from aa_flax.data.label_maps import LabelMap
from aa_flax.data.objects import stored_size
from aa_flax.data.open_files import check_room, make_room
from aa_flax.data.placement import Framing, Tries
from aa_flax.data.prepared import Prepared
from aa_flax.data.records import Records
from aa_flax.data.source import Source
from aa_flax.data.targets import ClassLabel, Targets, check_targets


class RecordSource(Source):
    """A source that reads ArrayRecord files and decodes examples at each access.

    Raises:
        OpenFilesError: the process may not open as many files as the split has.
        DataError: at creation, a file is missing; at access, a record is damaged, an image cannot be decoded or targets
            are out of range. The message has the file and the index within the split.
    """

    def __init__(
        self,
        prepared: Prepared,
        split: str,
        targets: Targets | None = None,
        *,
        fast_decode: bool = False,
        missing_ok: bool = False,
    ):
        """Open a split.

        Args:
            prepared: the data set.
            split: the name of the split, or a part of one in the notation of TFDS.
            targets: what is read beside the image; if not given, the class label, the boxes, or the label map.
            fast_decode: whether `part` decodes with `fast_jpeg`.
            missing_ok: accept missing files, for a caller that reads none of their examples.
        """
        own = LabelMap() if prepared.label_map_key else ClassLabel()
        targets = targets or (Boxes() if prepared.objects else own)
        info = prepared.builder.info
        features, split_info = info.features, info.splits[split]
        self.name = f"{info.name}[{split}]"
        self.image_shape = tuple(features[prepared.image_key].shape)
        self.target_shapes, self.placed = targets.shapes, getattr(targets, "placed", None)
        self.read_shapes, self.maps = getattr(targets, "read_shapes", None), getattr(targets, "maps", {})
        self._image_key = prepared.image_key
        try:
            self._targets_of = targets.reader(features)
        except DataError as error:
            raise DataError(f"{info.name}: {error}") from None
        if fast_decode:
            require_packages()
        self._decode_part = decode_part_fast if fast_decode else decode_part
        instructions = split_info.file_instructions
        self._files = [str(instruction.filename) for instruction in instructions]
        self._ends = list(accumulate(instruction.take for instruction in instructions))
        missing = [file for file in self._files if not Path(file).exists()]
        if missing and not missing_ok:
            raise DataError(f"{missing[0]}: no such file ({len(missing)} of {len(self._files)} of {self.name} missing)")
        make_room(len(self._files))
        self._records = Records(prepared.builder, split, prepared.image_key)

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def __getitem__(self, index: int) -> dict[str, Any]:
        self._require_index(index)
        # A single read, because a batched one starts threads at each call.
        return self._decoded(self._read_one(index), index)

    def part(self, index: int, framing: Framing | Tries, interpolation: Interpolation = "bilinear") -> dict[str, Any]:
        self._require_index(index)
        record = self._read_one(index)
        targets = self._read_targets(record, index)
        try:
            if isinstance(framing, Tries):
                framing = self._chosen(framing, targets, stored_size(record[self._image_key]))
            decode = functools.partial(self._decode_part, framing=framing, interpolation=interpolation)
            image, placement = self._pixels(record, index, decode)
            self._require_shape(placement.photo, index)
            return {"image": image, **self._moved(targets, placement), "index": int(index)}
        except ValueError as error:  # targets that do not fit their image
            raise DataError(f"{self.place(index)}: {error}") from None

    def targets(self, index: int) -> dict[str, Any]:
        self._require_index(index)
        return self._read_targets(self._read_one(index), index)

    def __getitems__(self, indices: Sequence[int]) -> list[dict[str, Any]]:
        for index in indices:
            self._require_index(index)
        try:
            records = self._records.__getitems__(list(indices))
        # A batched read fails as a whole and does not say at which record; what it raises depends on the damage.
        except Exception:
            records = [self._read_one(index) for index in indices]
        return [self._decoded(record, index) for record, index in zip(records, indices, strict=True)]

    def cached(self) -> ArraySource:
        return ArraySource.of(self)

    def _read_one(self, index: int) -> Mapping[str, Any]:
        try:
            return self._records[index]
        except Exception as error:
            check_room(error, self.place(index), len(self._files))
            raise DataError(f"{self.place(index)}: damaged record ({one_line(error)})") from None

    def _decoded(self, record: Mapping[str, Any], index: int) -> dict[str, Any]:
        image = self._pixels(record, index, decode_image)
        self._require_shape(image.shape[:2], index)
        return {"image": image, **self._read_targets(record, index), "index": int(index)}

    def _pixels(self, record: Mapping[str, Any], index: int, decode: Callable[[bytes, int], Any]) -> Any:
        try:
            return decode(record[self._image_key], self.image_shape[-1])
        # Pillow raises many types for damaged files.
        except Exception as error:
            raise DataError(f"{self.place(index)}: the image cannot be decoded ({one_line(error)})") from None

    def _require_shape(self, size: tuple[int, ...], index: int) -> None:
        if any(expected not in (None, found) for found, expected in zip(size, self.image_shape, strict=False)):
            found = (*size, self.image_shape[-1])
            raise DataError(f"{self.place(index)}: an image of shape {found}, expected {self.image_shape}")

    def _read_targets(self, record: Mapping[str, Any], index: int) -> dict[str, Any]:
        try:
            targets = self._targets_of(record)
        except ValueError as error:
            name = bytes(record.get("image/filename", b"")).decode("utf-8", "backslashreplace")
            raise DataError(f"{self.place(index)}{f' ({name})' * bool(name)}: {error}") from None
        check_targets(targets, self.shapes_read)  # a mistake in the task, not in the example
        return targets

    def record(self, index: int) -> Mapping[str, Any]:
        """Return an example as it is stored: the image is encoded and nothing is checked."""
        self._require_index(index)
        return self._read_one(index)

    def encoded(self, index: int) -> bytes:
        """Return the image of an example as it is stored."""
        return bytes(self.record(index)[self._image_key])

    def place(self, index: int) -> str:
        """Return the file and the index of an example in words, for messages."""
        return f"{self._files[bisect.bisect_right(self._ends, index)]}: example {index} of {self.name}"
