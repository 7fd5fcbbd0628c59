"""A data set of one's own: signals, images or volumes of numbers in NumPy's format .npz.

    FOLDER/train.npz and FOLDER/test.npz       the data set arrays/NAME; any other SPLIT.npz is a split too

Each has `signal` [n, *space, c], numbers over one to three axes, and `label` [n], whole numbers from 0 on; train.npz
may have `classes`, their names.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from aa_flax.data.errors import DataError
from aa_flax.data.sets.builder import require_files, stored_name_of_folder
from aa_flax.data.sets.signal_origin import Labelled, SignalOrigin

PREFIX = "arrays/"


class Arrays(SignalOrigin):
    """The data set in `folder`, which is named `arrays/NAME`.

    Raises:
        DataError: the name does not have that form, train.npz is missing, or the arrays do not fit each other.
    """

    description = "Arrays of numbers with one class each, from NumPy's files."

    def __init__(self, name: str, folder: Path, skip_damaged: bool = False):
        if skip_damaged:
            raise DataError(f"skip_damaged: {PREFIX}NAME has no images that could be left out")
        self.stored_name = stored_name_of_folder(name, PREFIX)
        train = require_files(folder, ["train.npz"], name)[0]
        others = sorted(path for path in folder.glob("*.npz") if path != train)
        self._split_files = {path.stem: path for path in (train, *others)}
        arrays = _load(train)
        self.signal_shape = arrays["signal"].shape[1:]
        count = int(arrays["label"].max(initial=-1)) + 1
        self._classes = [str(each) for each in arrays.get("classes", np.arange(count))]

    @property
    def class_names(self) -> list[str]:
        return self._classes

    def read(self, file: Path) -> Iterable[Labelled]:
        arrays = _load(file)
        yield from zip(arrays["signal"], arrays["label"].tolist(), strict=True)


def _load(file: Path) -> dict[str, Any]:
    """Return the arrays of a file; raise DataError where they are not those that are needed. Nothing is unpickled."""
    try:
        with np.load(file, allow_pickle=False) as opened:
            arrays = dict(opened)
    except (OSError, ValueError, EOFError) as error:
        raise DataError(f"{file}: cannot be read ({error})") from None
    if missing := sorted({"signal", "label"} - {*arrays}):
        raise DataError(f"{file}: has no array {missing[0]!r}; it has {', '.join(sorted(arrays)) or 'none'}")
    signal, label = arrays["signal"], arrays["label"]
    if not 3 <= signal.ndim <= 5 or signal.dtype.kind not in "fiub":
        raise DataError(
            f"{file}: signal is {signal.dtype} {signal.shape}, expected numbers [n, *space, c] over 1-3 axes"
        )
    if label.shape != signal.shape[:1] or label.dtype.kind not in "iu":
        raise DataError(f"{file}: label is {label.dtype} {label.shape}, expected whole numbers ({len(signal)},)")
    return arrays
