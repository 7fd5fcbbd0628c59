"""A data set of one's own: time series in the .ts format of the UCR and UEA archives (timeseriesclassification.com).

    FOLDER/NAME_TRAIN.ts and FOLDER/NAME_TEST.ts       the data set ts/NAME

The packages aeon and sktime read and ship such files. A header has lines such as `@equalLength false` and `@classLabel
true 1 2 3`; after `@data` a line is one series: the values of each channel, separated by commas, the channels by
colons, and after the last colon the class.
"""

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from aa_flax.data.errors import DataError
from aa_flax.data.sets.builder import require_files, stored_name_of_folder
from aa_flax.data.sets.signal_origin import Labelled, SignalOrigin

PREFIX = "ts/"


class TimeSeries(SignalOrigin):
    """The data set in `folder`, which is named `ts/NAME`, with the splits train and test.

    Raises:
        DataError: the name does not have that form, a file is missing, or a header is not one of labelled series.
    """

    description = "Time series with one class each, from files of the format .ts."

    def __init__(self, name: str, folder: Path, skip_damaged: bool = False):
        if skip_damaged:
            raise DataError(f"skip_damaged: {PREFIX}NAME has no images that could be left out")
        self.stored_name = stored_name_of_folder(name, PREFIX)
        problem = name.removeprefix(PREFIX)
        files = require_files(folder, [f"{problem}_{split}.ts" for split in ("TRAIN", "TEST")], name)
        self._split_files = dict(zip(("train", "test"), files, strict=True))
        header = _header(files[0])
        known, *self._classes = header.get("classlabel", "false").split()
        if known != "true" or not self._classes or header.get("timestamps", "false") == "true":
            raise DataError(f"{files[0]}: expected a header with '@classLabel true' and classes, and no time stamps")
        channels = int(header.get("dimensions", "1"))
        alike = header.get("equallength", "false") == "true" and "serieslength" in header
        self.signal_shape = (int(header["serieslength"]) if alike else None), channels

    @property
    def class_names(self) -> list[str]:
        return self._classes

    def read(self, file: Path) -> Iterable[Labelled]:
        for line in _lines(file, data=True):
            *channels, name = line.split(":")
            try:
                rows = [np.array(channel.split(","), np.float64) for channel in channels]
                series = np.stack(rows, -1)
            except ValueError:
                raise DataError(
                    f"{file}: a series whose values are missing, or differ in number: {line[:60]}"
                ) from None
            if name not in self._classes:
                raise DataError(f"{file}: class {name!r}, expected one of {', '.join(self._classes)}")
            yield series, self._classes.index(name)


def _header(file: Path) -> dict[str, str]:
    """Return the values of the header by their names in lower case."""
    pairs = (line[1:].partition(" ") for line in _lines(file, data=False) if line.startswith("@"))
    return {name.lower(): value.strip() for name, _, value in pairs}


def _lines(file: Path, *, data: bool) -> Iterator[str]:
    """Yield the lines after "@data", or those before it; comments and empty lines are left out."""
    after = False
    try:
        with file.open(encoding="utf-8") as opened:
            for line in map(str.strip, opened):
                if not line or line.startswith("#"):
                    continue
                if line.lower() == "@data":
                    if not data:
                        return
                    after = True
                elif after == data:
                    yield line
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{file}: cannot be read ({error})") from None
