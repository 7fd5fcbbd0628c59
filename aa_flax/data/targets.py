"""What is read of a stored example beside its image."""

from collections.abc import Callable, Mapping
from typing import Any, Protocol, runtime_checkable

import jax
import numpy as np
import tensorflow_datasets as tfds

from aa_flax.data.errors import DataError

Read = Callable[[Mapping[str, Any]], dict[str, Any]]
"""The record of an example, its image still encoded, to the targets by name; ValueError says what is wrong with it."""


@runtime_checkable  # the shape checker of the tests asks
class Targets(Protocol):
    """The targets of a kind of training, as arrays of fixed shapes.

    Attributes:
        shapes: shape and dtype of each, of one example; no name is "image", "index" or "mask". What fills up the last
            held-out batch is zero.
    """

    shapes: Mapping[str, jax.ShapeDtypeStruct]

    def reader(self, features: tfds.features.FeaturesDict) -> Read:
        """Return the function that makes the targets of a record.

        Args:
            features: of the data set, as TFDS describes them, by name.

        Raises:
            DataError: a data set that has not what the targets are made of; the message says what that is.
        """


class ClassLabel:
    """One class for each image: {"label": int32 []}."""

    shapes: Mapping[str, jax.ShapeDtypeStruct] = {"label": jax.ShapeDtypeStruct((), np.int32)}

    def reader(self, features: tfds.features.FeaturesDict) -> Read:
        """Return the function from a record to its label; DataError unless there is exactly one class label."""
        labels = class_labels(features)
        if len(labels) != 1:
            raise DataError(f"expected exactly one class label; class labels: {', '.join(labels) or 'none'}")
        key = labels[0]
        num_classes = features[key].num_classes

        def read(record: Mapping[str, Any]) -> dict[str, Any]:
            label = int(record[key])
            if not 0 <= label < num_classes:
                raise ValueError(f"label {label}, expected 0 to {num_classes - 1}")
            return {"label": np.int32(label)}

        return read


def class_labels(features: tfds.features.FeaturesDict) -> list[str]:
    """Return the names of the class labels among the features of a data set."""
    return sorted(key for key, feature in features.items() if type(feature) is tfds.features.ClassLabel)
