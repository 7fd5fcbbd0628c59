"""Stored examples as mappings that decode a feature when it is asked for.

TFDS decodes all features of an example, one value at a time: half a millisecond for a photograph with a few objects,
most of it for names and polygons that training does not read. Here the features that are read for every example, the
encoded image and the numbers, are taken from the example's protocol buffer directly, and all others by TFDS.
"""

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from tensorflow_datasets.proto import tf_example_pb2

from aa_flax.data.errors import one_line

_Stored = Mapping[str, Any]
"""The features of a `tf.train.Example` by their full names, such as "objects/box"."""
_Read = Callable[[_Stored], Any]
_NUMBERS = (tfds.features.Tensor, tfds.features.Scalar, tfds.features.ClassLabel, tfds.features.BBoxFeature)


class Records(Sequence[Mapping[str, Any]]):
    """The stored examples of a split, whose images stay encoded.

    Each is a mapping of what TFDS decodes, but for sequences of numbers, which are arrays instead of lists. What cannot
    be decoded raises ValueError when it is asked for.
    """

    def __init__(self, builder: tfds.core.DatasetBuilder, split: str, image_key: str):
        """Open a split of a prepared data set, or a part of one in the notation of TFDS."""
        features = builder.info.features
        self._files = builder.as_data_source(split, deserialize_method=tfds.decode.DeserializeMethod.RAW_BYTES)
        self._readers = _readers(features, image_key)
        encoded = [name for name, feature in features.items() if isinstance(feature, tfds.features.Image)]
        decoders = {name: tfds.decode.SkipDecoding() for name in encoded}
        self._whole = functools.partial(features.deserialize_example_np, decoders=decoders)

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, index: Any) -> Any:
        return self._record(self._files[index])

    def __iter__(self) -> Iterator[Mapping[str, Any]]:
        return (self[index] for index in range(len(self)))  # the reader says in its own way that there is no more

    def __getitems__(self, indices: Sequence[int]) -> list[Mapping[str, Any]]:
        """Return several at once, which may be faster than one after the other."""
        return [self._record(serialized) for serialized in self._files.__getitems__(indices)]

    def _record(self, serialized: bytes) -> Mapping[str, Any]:
        stored = tf_example_pb2.Example.FromString(serialized).features.feature
        return _Record(stored, self._readers, functools.partial(self._whole, serialized))


class _Record(Mapping[str, Any]):
    """Features by name: those that have a reader, and all others as `whole()` has them."""

    def __init__(self, stored: _Stored, readers: Mapping[str, Any], whole: Callable[[], Mapping[str, Any]]):
        self._stored, self._readers, self._make_whole = stored, readers, whole

    def __getitem__(self, name: str) -> Any:
        reader = self._readers[name]
        try:
            if isinstance(reader, dict):
                return _Record(self._stored, reader, lambda: self._whole[name])
            found = None if reader is None else reader(self._stored)
            return self._whole[name] if found is None else found
        # The protocol buffer lacks the feature or has another one in its place; TFDS raises many types.
        except Exception as error:
            raise ValueError(f"feature {name!r} cannot be read ({one_line(error)})") from None

    def __iter__(self) -> Iterator[str]:
        return iter(self._readers)

    def __len__(self) -> int:
        return len(self._readers)

    @functools.cached_property
    def _whole(self) -> Mapping[str, Any]:
        return self._make_whole()


def _readers(features: tfds.features.FeaturesDict, image_key: str) -> dict[str, Any]:
    """Return by name of the feature its reader, None for one that is left to TFDS, a dictionary for a sequence."""
    readers: dict[str, Any] = {}
    for name, feature in features.items():
        each = feature.feature if type(feature) is tfds.features.Sequence else None
        if isinstance(each, tfds.features.FeaturesDict):
            readers[name] = {inner: _numbers(f"{name}/{inner}", one) for inner, one in each.items()}
        elif isinstance(feature, tfds.features.LabeledImage) or (
            name == image_key and isinstance(feature, tfds.features.Image)
        ):
            readers[name] = functools.partial(_bytes, name)
        else:
            read = _numbers(name, feature)
            readers[name] = None if read is None or feature.shape else functools.partial(_only, read)
    return readers


def _bytes(name: str, stored: _Stored) -> bytes:
    return stored[name].bytes_list.value[0]


def _only(read: _Read, stored: _Stored) -> Any:
    """Return the one number of a feature, None if there is another number of them."""
    found = read(stored)
    return found[0].item() if found is not None and len(found) == 1 else None


def _numbers(name: str, feature: Any) -> _Read | None:
    """Return the reader of the numbers of a feature, as an array with one row for each time it is there.

    It is None for a feature of another kind, and returns None if the feature is not stored in the usual way.
    """
    if type(feature) not in _NUMBERS:
        return None
    info = feature.get_tensor_info()
    shape, dtype, stored_as = tuple(info.shape), np.dtype(info.np_dtype), _stored_as(feature, np.dtype(info.np_dtype))
    if None in shape or info.optional or not stored_as:
        return None
    size = dtype.itemsize * int(np.prod(shape))

    def read(stored: _Stored) -> np.ndarray | None:
        if name not in stored or not stored[name].HasField(stored_as):
            return None
        values = getattr(stored[name], stored_as).value
        if stored_as != "bytes_list":
            return np.array(values, dtype).reshape(-1, *shape)
        if any(len(value) != size for value in values):
            return None
        return np.frombuffer(b"".join(values), dtype).reshape(-1, *shape)

    return read


def _stored_as(feature: Any, dtype: np.dtype) -> str:
    """Return the field of the protocol buffer that has the numbers of a feature; "" for one that is left to TFDS."""
    encoding = getattr(feature.to_json_content(), "encoding", "none")
    if encoding == "none":
        return {"i": "int64_list", "b": "int64_list", "f": "float_list"}.get(dtype.kind, "")
    return "bytes_list" if encoding == "bytes" else ""
