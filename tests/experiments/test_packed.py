import io

import numpy as np
import pytest
from PIL import Image

import experiments.packed  # noqa: F401  its data sets become known
from aa_flax.data import DataError, load
from aa_flax.data.sets import own


@pytest.fixture
def arrays(rng):
    """Return the arrays of a packed file of seven JPEGs.

    JPEGs of one size and quality are equal before their scan, so one header serves all.
    """
    files = []
    for _ in range(7):
        buffer = io.BytesIO()
        Image.fromarray(rng.integers(0, 256, (32, 32, 3), np.uint8)).save(buffer, "jpeg", quality=75)
        files.append(buffer.getvalue())
    # A scan starts after its marker FF DA, a length of two bytes, and that many bytes less two.
    start = files[0].index(b"\xff\xda")
    header = start + 2 + int.from_bytes(files[0][start + 2 : start + 4], "big")
    assert len({file[:header] for file in files}) == 1
    scans = [np.frombuffer(file[header:], np.uint8) for file in files]
    arrays = {
        "header": np.frombuffer(files[0][:header], np.uint8),
        "scans": np.concatenate(scans),
        "offsets": np.cumsum([0, *map(len, scans)]).astype(np.uint32),
        "labels": np.arange(7, dtype=np.uint8),
        "split": np.array([0, 0, 1, 0, 1, 0, 0], np.uint8),
        "classes": np.array([f"thing{number}" for number in range(10)]),
    }
    return arrays, files


@pytest.mark.parametrize("named", ["folder", "file"])
def test_stores_the_original_bytes(arrays, tmp_path, named):
    arrays, files = arrays
    np.savez(tmp_path / "cifar10_jpeg.npz", **arrays)
    source_dir = tmp_path if named == "folder" else tmp_path / "cifar10_jpeg.npz"
    dataset = load("cifar10_jpeg", data_dir=tmp_path / "tfds", source_dir=source_dir)
    assert dataset.splits == {"train": 5, "test": 2}
    for split, rows in (("train", [0, 1, 3, 5, 6]), ("test", [2, 4])):
        for row, example in zip(rows, dataset.split(split), strict=True):
            assert example["label"] == row
            np.testing.assert_array_equal(example["image"], np.asarray(Image.open(io.BytesIO(files[row]))))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"labels": np.array([0, 1, 2, 3, 4, 5, 10], np.uint8)}, "example 6 has label 10, expected 0 to 9"),
        ({"labels": np.arange(6, dtype=np.uint8)}, "6 labels, 7 split entries and 8 offsets do not fit together"),
        ({"split": np.array([0, 0, 2, 0, 1, 0, 0], np.uint8)}, "example 2 is in split 2, expected 0 or 1"),
        ({"offsets": np.array([0, 9, 5, 11, 12, 13, 14, 15])}, "example 1 would be bytes 9 to 5 of"),
        ({"offsets": np.array([0, 1, 2, 3, 4, 5, 6, 10**9])}, "example 6 would be bytes 6 to 1000000000 of"),
        ({"classes": None}, "no array 'classes'"),
        ({"scans": np.zeros((3, 3), np.uint8)}, "'scans' is uint8 with 2 dimensions"),
        ({"labels": np.array([{}] * 7, object)}, "truncated or damaged npz file .*allow_pickle"),
    ],
)
def test_faulty_arrays(arrays, tmp_path, change, message):
    changed = {name: value for name, value in {**arrays[0], **change}.items() if value is not None}
    np.savez(tmp_path / "cifar10_jpeg.npz", **changed)
    with pytest.raises(DataError, match=message):
        load("cifar10_jpeg", data_dir=tmp_path / "tfds", source_dir=tmp_path)


def test_truncated_or_missing_file(arrays, tmp_path):
    path = tmp_path / "cifar10_jpeg.npz"
    with pytest.raises(DataError, match="no such file; expected the folder with cifar10_jpeg.npz"):
        load("cifar10_jpeg", data_dir=tmp_path / "tfds", source_dir=tmp_path)
    np.savez(path, **arrays[0])
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(DataError, match="truncated or damaged npz file"):
        load("cifar10_jpeg", data_dir=tmp_path / "tfds", source_dir=tmp_path)


def test_a_part_of_a_split_of_imagenette_has_every_class(tmp_path, rng):
    """The source file is sorted by class; the prepared data has a random order that is always the same."""
    files = []
    for _ in range(60):
        buffer = io.BytesIO()
        Image.fromarray(rng.integers(0, 256, (128, 128, 3), np.uint8)).save(buffer, "webp", quality=10)
        files.append(np.frombuffer(buffer.getvalue(), np.uint8))
    np.savez(
        tmp_path / "imagenette128_webp.npz",
        blob=np.concatenate(files),
        offsets=np.cumsum([0, *map(len, files)]),
        labels=np.sort(np.arange(60) % 3).astype(np.uint8),
        split=(np.arange(60) % 5 == 0).astype(np.uint8),
        classes=np.array(["n01440764", "n02102040", "n00000000"]),
    )
    dataset = load("imagenette128", data_dir=tmp_path / "tfds", source_dir=tmp_path)
    assert dataset.class_names == ("tench", "English springer", "n00000000")
    assert dataset.splits == {"train": 48, "validation": 12} and dataset.folder.name == "1.1.0"
    assert {example["label"] for example in dataset.split("train[:12]")} == {0, 1, 2}
    again = load("imagenette128", data_dir=tmp_path / "again", source_dir=tmp_path)
    for ours, theirs in zip(dataset.split("validation"), again.split("validation"), strict=True):
        assert ours["label"] == theirs["label"]
        np.testing.assert_array_equal(ours["image"], theirs["image"])


def test_once_prepared_it_opens_where_nobody_knows_it(arrays, tmp_path, monkeypatch):
    np.savez(tmp_path / "cifar10_jpeg.npz", **arrays[0])
    before = load("cifar10_jpeg", data_dir=tmp_path / "tfds", source_dir=tmp_path)
    monkeypatch.delitem(own.FROM_FOLDER, "cifar10_jpeg")
    after = load("cifar10_jpeg", data_dir=tmp_path / "tfds")
    assert after.folder == before.folder and after.fingerprint == before.fingerprint


def test_a_name_of_the_library_is_taken():
    with pytest.raises(ValueError, match="a data set named 'cifar10' is this library's own"):
        own.register("cifar10", own.Cifar10, own.FACTS["cifar10"], (0.0,) * 3, (1.0,) * 3)
