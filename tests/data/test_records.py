"""Tests of records that are decoded feature by feature, against TFDS, which decodes all of an example."""

import io

import numpy as np
import pytest
import tensorflow_datasets as tfds
from tensorflow_datasets.proto import tf_example_pb2

from aa_flax.data import load
from aa_flax.data.records import _readers, _Record

F = tfds.features
FEATURES = F.FeaturesDict(
    {
        "image": F.Image(shape=(None, None, 3)),
        "label": F.ClassLabel(num_classes=5),
        "name": F.Text(),
        "score": F.Scalar(np.float32),
        "mean": F.Tensor(shape=(3,), dtype=np.float32),
        "objects": F.Sequence(
            {
                "box": F.Tensor(shape=(4,), dtype=np.float64, encoding=F.Encoding.BYTES),
                "part": F.BBoxFeature(),
                "packed": F.Tensor(shape=(4,), dtype=np.float64, encoding=F.Encoding.ZLIB),
                "label": F.ClassLabel(num_classes=5),
                "crowd": F.Scalar(np.bool_),
                "area": F.Tensor(shape=(), dtype=np.float64, encoding=F.Encoding.BYTES),
                "big": F.Scalar(np.uint64),
                "segmentation": F.Text(),
            }
        ),
        "counts": F.Sequence(np.int64),
    }
)


def example(rng, count):
    boxes = rng.uniform(0, 100, (count, 4))
    objects = [
        {
            "box": box,
            "part": F.BBox(0.1, 0.2, 0.3, 0.4),
            "packed": box / 3,
            "label": int(rng.integers(5)),
            "crowd": bool(number % 2),
            "area": np.float64(box[0] / 7),
            "big": 2**63 + number,
            "segmentation": f"polygon {number}",
        }
        for number, box in enumerate(boxes)
    ]
    whole = {"image": io.BytesIO(bytes(range(80))), "label": 3, "name": "a photo", "score": 0.1}
    mean = rng.normal(size=3).astype(np.float32)
    return FEATURES.serialize_example({**whole, "mean": mean, "objects": objects, "counts": [4, 5, 6]})


def both(serialized):
    stored = tf_example_pb2.Example.FromString(serialized).features.feature
    decoders = {"image": tfds.decode.SkipDecoding()}
    theirs = FEATURES.deserialize_example_np(serialized, decoders=decoders)
    return _Record(stored, _readers(FEATURES, "image"), lambda: theirs), theirs


@pytest.mark.parametrize("count", [0, 1, 3])
def test_features_are_those_of_tfds(rng, count):
    ours, theirs = both(example(rng, count))
    assert {*ours} == {*theirs} and {*ours["objects"]} == {*theirs["objects"]} and len(ours["objects"]) == 8
    for name in ("image", "label", "name", "score"):
        assert type(ours[name]) is type(theirs[name]) and ours[name] == theirs[name]
    np.testing.assert_array_equal(ours["mean"], theirs["mean"])
    np.testing.assert_array_equal(ours["counts"], theirs["counts"])
    for name, values in theirs["objects"].items():
        assert len(ours["objects"][name]) == count
        for found, expected in zip(ours["objects"][name], values, strict=True):
            np.testing.assert_array_equal(found, expected)
            assert np.asarray(found).dtype == np.asarray(expected).dtype


def test_what_training_reads_is_not_left_to_tfds(rng):
    def whole():
        raise AssertionError

    stored = tf_example_pb2.Example.FromString(example(rng, 2)).features.feature
    ours = _Record(stored, _readers(FEATURES, "image"), whole)
    assert ours["label"] == 3 and ours["image"] == bytes(range(80))
    assert all(len(ours["objects"][name]) == 2 for name in ("box", "part", "label", "crowd", "area"))
    with pytest.raises(ValueError, match="feature 'name' cannot be read"):
        ours["name"]


def test_what_is_missing_or_of_another_kind(rng):
    stored = tf_example_pb2.Example.FromString(example(rng, 2))
    del stored.features.feature["label"]
    stored.features.feature["objects/crowd"].bytes_list.value.append(b"no number")
    serialized = stored.SerializeToString()
    readers, whole = _readers(FEATURES, "image"), lambda: FEATURES.deserialize_example_np(serialized)
    record = _Record(stored.features.feature, readers, whole)
    for read in (lambda: record["label"], lambda: record["objects"]["crowd"]):
        with pytest.raises(ValueError, match=r"feature '(label|crowd)' cannot be read"):
            read()
    assert len(record["objects"]["box"]) == 2 and record.get("nothing") is None


def test_records_of_a_split(data_dir):
    source = load("bccd_subset", data_dir=data_dir).split("test")
    records = source._records
    assert len(records) == len(source) == 16
    one, (again, _) = records[3], records.__getitems__([3, 4])
    assert one["image"] == again["image"] == source.encoded(3) and one["image/filename"] == again["image/filename"]
    np.testing.assert_array_equal(one["objects"]["box"], again["objects"]["box"])
