"""Which column of a detector's class scores stands for which class of the data set."""

from collections.abc import Sequence
from typing import Literal

import numpy as np
from jaxtyping import Int64

from aa_flax.config.schema import ConfigError
from aa_flax.data.preprocessing import Preprocessing

Numbering = Literal["classes", "category_ids"]


def class_columns(numbering: Numbering, preprocessing: Preprocessing, unused: int) -> tuple[int, ...]:
    """Return the column of the network's class scores that stands for each class, after the `unused` first ones.

    Raises:
        ConfigError: columns are to be numbered as the data set's files number classes, and they do not.
    """
    numbers = list(range(len(preprocessing.class_names)))
    if numbering == "category_ids":
        numbers = [number - 1 for number in preprocessing.category_ids or ()]
        if len(numbers) != len(preprocessing.class_names) or min(numbers) < 0:
            raise ConfigError(
                "config field 'task.options.columns' is 'category_ids', which needs a data set whose files number its "
                f"classes from 1 on, got {preprocessing.category_ids}"
            )
    return tuple(unused + number for number in numbers)


def labels_of(columns: Sequence[int]) -> Int64[np.ndarray, " columns"]:
    """Return the class of each column, -1 for one that stands for none, from the column of each class."""
    labels = np.full(max(columns) + 1, -1, np.int64)
    labels[list(columns)] = np.arange(len(columns))
    return labels
