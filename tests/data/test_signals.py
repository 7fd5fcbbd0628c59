"""Tests of signals as data: files in, numbers out bit for bit, padding that is told, and what only images have."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

from aa_flax.config.schema import ConfigError, default_config, resolve
from aa_flax.data import DataError, eval_batches, load, train_batches
from aa_flax.data.check import check
from aa_flax.data.preprocessing import preprocessing_for
from aa_flax.data.signals import Whole

LENGTHS = {"TRAIN": (5, 3, 7, 4, 6), "TEST": (2, 8, 5)}
HEADER = "# words\n@problemName walk\n@timeStamps false\n@univariate false\n@dimensions 2\n@equalLength false\n"


def text(series, names):
    """Return lines in the format .ts, written independently of `aa_flax.data.sets.time_series`."""
    lines = [
        ":".join([*(",".join(map(str, channel)) for channel in one.T), name])
        for one, name in zip(series, names, strict=True)
    ]
    return HEADER + "@classLabel true ant bee\n@data\n" + "\n".join(lines) + "\n"


@pytest.fixture(scope="module")
def walk(tmp_path_factory):
    """Return the prepared data set of eight walks, and the numbers of each split."""
    folder, rng = tmp_path_factory.mktemp("walk"), np.random.default_rng(4)
    written = {}
    for split, lengths in LENGTHS.items():
        written[split.lower()] = [rng.normal(size=(length, 2)).round(3) for length in lengths]
        names = [("ant", "bee")[number % 2] for number in range(len(lengths))]
        (folder / f"walk_{split}.ts").write_text(text(written[split.lower()], names))
    return load("ts/walk", data_dir=folder / "tfds", source_dir=folder), written


@pytest.fixture
def boxes(tmp_path):
    """Return a data set of volumes of 2×3×4, and its arrays."""
    rng = np.random.default_rng(5)
    arrays = {split: rng.normal(size=(count, 2, 3, 4, 1)) for split, count in (("train", 6), ("test", 4))}
    for split, signal in arrays.items():
        label = np.arange(len(signal)) % 3
        np.savez(tmp_path / f"{split}.npz", signal=signal, label=label, classes=np.array(["a", "b", "c"]))
    return load("arrays/boxes", data_dir=tmp_path / "tfds", source_dir=tmp_path), arrays


def test_series_are_read_as_they_are_written(walk):
    dataset, written = walk
    assert dataset.has_signals and dataset.class_names == ("ant", "bee") and dataset.image_shape == (None, 2)
    assert dataset.splits == {"train": 5, "test": 3} and dataset.largest == (8,)
    for split, series in written.items():
        for example, one in zip(dataset.split(split), series, strict=True):
            np.testing.assert_array_equal(example["image"], one.astype(np.float32))
            assert example["label"] == example["index"] % 2
    places = np.concatenate(written["train"])
    np.testing.assert_allclose(dataset.mean, places.mean(0), rtol=1e-6)
    np.testing.assert_allclose(dataset.std, places.std(0), rtol=1e-6)
    again = load("ts/walk", data_dir=dataset.folder.parents[1])
    assert again.fingerprint == dataset.fingerprint and again.mean == dataset.mean
    assert check(dataset.folder).findings == []


@pytest.mark.parametrize("cached", [False, True])
def test_batches_are_padded_and_say_how_much_is_there(walk, cached):
    dataset, written = walk
    source = dataset.split("train").cached() if cached else dataset.split("train")
    with train_batches(source, batch_size=4, seed=3, image_size=(9,)) as batches:
        seen = [next(batches) for _ in range(5)]
    assert {*np.concatenate([batch["index"] for batch in seen]).tolist()} == {0, 1, 2, 3, 4}
    for batch in seen:
        assert batch["image"].shape == (4, 9, 2) and batch["image"].dtype == np.float32
        for image, index, placement in zip(batch["image"], batch["index"], batch["placement"], strict=True):
            one = written["train"][index].astype(np.float32)
            assert placement.tolist() == [len(one)]
            np.testing.assert_array_equal(image[: len(one)], one)
            assert not image[len(one) :].any()
    with eval_batches(dataset.split("test"), batch_size=2, view=Whole((8,))) as batches:
        masks, sizes = zip(*((batch["mask"], batch["placement"].ravel()) for batch in batches), strict=True)
    assert np.concatenate(masks).tolist() == [True, True, True, False]
    assert np.concatenate(sizes)[:3].tolist() == [2, 8, 5]


def test_volumes_of_one_size_have_no_padding(boxes):
    dataset, arrays = boxes
    assert (
        dataset.image_shape == (2, 3, 4, 1) and dataset.class_names == ("a", "b", "c") and dataset.largest == (2, 3, 4)
    )
    source = dataset.split("train")
    np.testing.assert_array_equal([example["image"] for example in source], arrays["train"].astype(np.float32))
    with train_batches(source.cached(), batch_size=3, seed=0) as batches:
        batch = next(batches)
    assert batch["image"].shape == (3, 2, 3, 4, 1) and "placement" not in batch
    np.testing.assert_array_equal(batch["image"], arrays["train"][batch["index"]].astype(np.float32))


def of_signals(name, **fields):
    config = default_config()
    config.data.name, config.data.crop, config.data.flip = name, "none", False
    for field, value in fields.items():
        config.data[field] = value
    return resolve(config)


def test_normalised_signals_have_zeros_where_nothing_is(walk, rng):
    dataset, _ = walk
    preprocessing = preprocessing_for(of_signals("ts/walk"), dataset)
    assert preprocessing.image_size == (8,) and preprocessing.of_signals and preprocessing.padded
    images, sizes = rng.normal(size=(2, 8, 2)).astype(np.float32), np.array([[8], [3]], np.float32)
    found = np.asarray(preprocessing.normalize(*map(jnp.asarray, (images, sizes))))
    wanted = (images - np.array(dataset.mean)) / np.array(dataset.std)
    np.testing.assert_allclose(found[0], wanted[0], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(found[1, :3], wanted[1, :3], rtol=1e-5, atol=1e-5)
    assert not found[1, 3:].any()
    assert np.asarray(preprocessing.valid(*map(jnp.asarray, (images, sizes)))).sum(1).tolist() == [8, 3]
    as_json = {name: list(v) if isinstance(v, tuple) else v for name, v in dataclasses.asdict(preprocessing).items()}
    assert type(preprocessing).from_json(as_json) == preprocessing


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"crop": "pad"}, "'data.crop' must be 'none' for 'ts/walk', which has signals, got 'pad'"),
        ({"flip": True}, "'data.flip' augments images, and 'ts/walk' has signals"),
        ({"mixup": 0.2}, "'data.mixup' augments images"),
        ({"on_device": True, "image_size": (8,)}, "data.on_device"),
        ({"image_size": (7,)}, r"'data.image_size' is \(7,\), and signals of 'ts/walk' have up to \(8,\)"),
        ({"image_size": (8, 8)}, r"'data.image_size' must be \(length,\), at least 1, got \(8, 8\)"),
        ({"mean": (0.5,), "std": (1.0,)}, "'data.mean' has 1 values for images of 2 channels"),
    ],
)
def test_fields_of_images_are_refused(walk, fields, words):
    with pytest.raises(ConfigError, match=words):
        preprocessing_for(of_signals("ts/walk", **fields), walk[0])


def test_a_signal_that_does_not_fit_is_named(walk):
    with pytest.raises(DataError, match=r"example 2 of .*: a signal of 7 does not fit 6, which 'data.image_size' sets"):
        walk[0].split("train").part(2, Whole((6,)).framing)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (HEADER + "@classLabel false\n@data\n1,2:3,4\n", "expected a header with '@classLabel true' and classes"),
        (HEADER + "@classLabel true a\n@data\n1,?:3,4:a\n", "values are missing, or differ in number: 1,?"),
        (HEADER + "@classLabel true a\n@data\n1,2:3:a\n", "values are missing, or differ in number"),
        (HEADER + "@classLabel true a\n@data\n1,2:3,4:b\n", "class 'b', expected one of a"),
        (HEADER + "@classLabel true a\n@data\n1,2:a\n", r"example 0 has shape \(2, 1\), expected \(None, 2\)"),
        (HEADER + "@classLabel true a\n@data\n1,nan:3,4:a\n", "example 0 has numbers that are missing or not finite"),
        (HEADER + "@classLabel true a\n@data\n", "no signals"),
    ],
)
def test_faults_of_series_are_told(tmp_path, content, words):
    for split in ("TRAIN", "TEST"):
        (tmp_path / f"odd_{split}.ts").write_text(content)
    with pytest.raises(DataError, match=words):
        load("ts/odd", data_dir=tmp_path / "tfds", source_dir=tmp_path)


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"signal": np.ones((2, 3, 1))}, "has no array 'label'; it has signal"),
        ({"signal": np.ones((2, 3)), "label": np.zeros(2, int)}, r"signal is float64 \(2, 3\), expected numbers"),
        (
            {"signal": np.ones((2, 3, 1)), "label": np.zeros(2)},
            r"label is float64 \(2,\), expected whole numbers \(2,\)",
        ),
        ({"signal": np.ones((2, 3, 1), object), "label": np.zeros(2, int)}, "cannot be read"),
        ({"signal": np.ones((2, 3, 1)), "label": np.array([0, -1])}, "example 1 has label -1, expected 0 to 0"),
    ],
)
def test_faults_of_arrays_are_told(tmp_path, arrays, words):
    np.savez(tmp_path / "train.npz", **arrays)
    with pytest.raises(DataError, match=words):
        load("arrays/odd", data_dir=tmp_path / "tfds", source_dir=tmp_path)


def test_what_is_not_there_is_named(tmp_path):
    with pytest.raises(DataError, match=r"ts/no needs no_TRAIN.ts, no_TEST.ts; missing: no_TRAIN.ts, no_TEST.ts"):
        load("ts/no", data_dir=tmp_path / "tfds", source_dir=tmp_path)
    with pytest.raises(
        DataError, match=r"name the folder that holds NAME_TRAIN.ts and NAME_TEST.ts once as source_dir"
    ):
        load("ts/no", data_dir=tmp_path / "tfds")
    with pytest.raises(DataError, match="skip_damaged: arrays/NAME has no images"):
        load("arrays/no", data_dir=tmp_path / "tfds", source_dir=tmp_path, skip_damaged=True)
