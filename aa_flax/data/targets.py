"""The targets of an example: what is read of a stored example beside its image."""

from collections.abc import Callable, Mapping
from typing import Any, Protocol, runtime_checkable

import jax
import numpy as np
import tensorflow_datasets as tfds

from aa_flax.data.errors import DataError
from aa_flax.data.objects import find_objects

Read = Callable[[Mapping[str, Any]], dict[str, Any]]
"""A function from an example's record, its image still encoded, to its targets by name.

ValueError says what is wrong with the record.
"""


@runtime_checkable  # the tests' shape checker uses isinstance
class Targets(Protocol):
    """The targets that a task trains on, as arrays of fixed shapes.

    Attributes:
        shapes: shape and dtype of each target of one example, by name; no name is "image", "index" or "mask". The
            targets of the examples that pad the last batch of an evaluation are zero.

    Targets that lie in the image have a method `placed(values, placement)` besides. It takes the targets of a
    photograph, in its own pixels, and `Placement.as_array`, and returns those of the canvas, of the same shapes;
    batches then have the placement of each image as "placement".

    What is read of a record may have another form than what `placed` gives: `read_shapes` has shape and dtype of it by
    name, where the dtype object stands for a value of any kind. Targets that have a value for each pixel, [h, w], are
    named in `maps`, with the value of padding: `placed` gives them in the size of what is seen of a photograph, and
    batches pad them to the size of their images, whatever it is.
    """

    shapes: Mapping[str, jax.ShapeDtypeStruct]

    def reader(self, features: tfds.features.FeaturesDict) -> Read:
        """Return the function that makes the targets of a record.

        Args:
            features: the features of the data set by name, as TFDS describes them.

        Raises:
            DataError: the data set lacks a feature that the targets are made of; the message says which.
        """


class ClassLabel:
    """The targets of classification, one class for each image: {"label": int32 []}."""

    shapes: Mapping[str, jax.ShapeDtypeStruct] = {"label": jax.ShapeDtypeStruct((), np.int32)}

    def reader(self, features: tfds.features.FeaturesDict) -> Read:
        """Return the function that reads the label of a record; raise DataError unless there is exactly one label."""
        labels = class_labels(features)
        if not labels and (forms := find_objects(features)):
            raise DataError(
                f"the images have objects with a box and a class each ({forms[0].key!r}), not one class each; they are "
                "for detection"
            )
        if not labels and any(isinstance(feature, tfds.features.LabeledImage) for feature in features.values()):
            raise DataError("the images have a class for each pixel, not one each; they are for segmentation")
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


def check_targets(targets: Mapping[str, Any], shapes: Mapping[str, jax.ShapeDtypeStruct]) -> None:
    """Raise TypeError if the targets that were read of an example are not those that are declared."""
    if targets.keys() != shapes.keys():
        raise TypeError(f"targets {_named(targets)} were read of an example; declared are {_named(shapes)}")
    for name, declared in shapes.items():
        if declared.dtype == np.object_:
            continue
        value = np.asarray(targets[name])
        if value.shape != declared.shape or value.dtype != declared.dtype:
            read = f"{value.dtype} {list(value.shape)}"
            raise TypeError(f"target {name!r} was read as {read}; declared is {declared.dtype} {list(declared.shape)}")


def _named(targets: Mapping[str, Any]) -> str:
    return ", ".join(map(repr, sorted(targets))) or "none"


def images(features: tfds.features.FeaturesDict) -> list[str]:
    """Return the names, sorted, of the images among the features of a data set."""
    # Types are compared exactly: LabeledImage (a segmentation map) derives from Image, and is no input image.
    return sorted(key for key, feature in features.items() if type(feature) is tfds.features.Image)


def signals(features: tfds.features.FeaturesDict) -> list[str]:
    """Return the names, sorted, of the signals among the features of a data set: floating arrays of 2 to 4 axes."""
    return sorted(
        key
        for key, feature in features.items()
        if type(feature) is tfds.features.Tensor and feature.np_dtype == np.float32 and 2 <= len(feature.shape) <= 4
    )


def class_labels(features: tfds.features.FeaturesDict) -> list[str]:
    """Return the names, sorted, of the class labels among the features of a data set."""
    return sorted(key for key, feature in features.items() if type(feature) is tfds.features.ClassLabel)
