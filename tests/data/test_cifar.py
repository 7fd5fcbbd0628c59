import pickle

import numpy as np
import pytest

from aa_flax.data import DataError, load


@pytest.mark.parametrize("classes", [10, 100])
@pytest.mark.parametrize("version", ["binary", "python"])
@pytest.mark.parametrize("where", ["folder", "parent"])
def test_prepared_examples_are_the_official_ones(cifar, tmp_path, classes, version, where):
    made = cifar(classes, version)
    dataset = load(f"cifar{classes}", data_dir=tmp_path / "tfds", source_dir=getattr(made, where))
    assert list(dataset.class_names) == made.names
    assert dataset.splits == {"train": 15 if classes == 10 else 3, "test": 3}
    for name in ("train", "test"):
        expected = getattr(made, name)
        source = dataset.split(name).cached()
        np.testing.assert_array_equal(np.stack([example["image"] for example in source]), expected.images)
        assert [example["label"] for example in source] == expected.labels.tolist()


def change(path, change):
    path.write_bytes(change(path.read_bytes()))


def repickle(path, **entries):
    content = pickle.loads(path.read_bytes())
    path.write_bytes(pickle.dumps({**content, **{k.encode(): v for k, v in entries.items()}}, protocol=2))


@pytest.mark.parametrize(
    ("version", "damage", "message"),
    [
        ("binary", lambda f: (f / "data_batch_3.bin").unlink(), "missing: data_batch_3.bin"),
        ("binary", lambda f: (f / "batches.meta.txt").unlink(), "missing: batches.meta.txt"),
        ("binary", lambda f: (f / "batches.meta.txt").write_text("cat dog"), "2 class names, expected 10"),
        (
            "binary",
            lambda f: change(f / "data_batch_2.bin", lambda c: c[:-5]),
            "data_batch_2.bin: 9214 bytes .* records of 3073 bytes: truncated after example 1",
        ),
        ("binary", lambda f: change(f / "test_batch.bin", lambda c: b""), "test_batch.bin: the file is empty"),
        (
            "binary",
            lambda f: change(f / "data_batch_5.bin", lambda c: c[:3073] + b"\x0a" + c[3074:]),
            "data_batch_5.bin: example 1 has label 10, expected 0 to 9",
        ),
        ("python", lambda f: change(f / "data_batch_4", lambda c: c[:-9]), "data_batch_4: truncated or damaged pickle"),
        ("python", lambda f: repickle(f / "data_batch_4", labels=[0, 1]), "data_batch_4: 2 labels for 3 images"),
        (
            "python",
            lambda f: repickle(f / "data_batch_4", labels=[0, 1, -1]),
            "example 2 has label -1, expected 0 to 9",
        ),
        ("python", lambda f: repickle(f / "data_batch_4", labels=["a"]), "'labels' is not a list of whole numbers"),
        ("python", lambda f: repickle(f / "test_batch", data=np.zeros((3, 5), np.uint8)), r"'data' is uint8 \(3, 5\)"),
        ("python", lambda f: repickle(f / "batches.meta", label_names=7), "0 class names, expected 10"),
        (
            "python",
            lambda f: (f / "test_batch").write_bytes(pickle.dumps({b"x": 1}, protocol=2)),
            "test_batch: no entry 'data'; entries: x",
        ),
    ],
)
def test_faulty_files(cifar, tmp_path, version, damage, message):
    made = cifar(10, version)
    damage(made.folder)
    with pytest.raises(DataError, match=message) as error:
        load("cifar10", data_dir=tmp_path / "tfds", source_dir=made.folder)
    assert str(made.folder) in str(error.value)
    assert "\n" not in str(error.value)


def test_another_folder(tmp_path):
    with pytest.raises(DataError, match="neither the folder cifar-100-binary nor cifar-100-python nor their files"):
        load("cifar100", data_dir=tmp_path / "tfds", source_dir=tmp_path)
    with pytest.raises(DataError, match="source_dir: no such folder: .*/absent"):
        load("cifar100", data_dir=tmp_path / "tfds", source_dir=tmp_path / "absent")
