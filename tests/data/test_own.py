import multiprocessing
import shutil

import numpy as np
import pytest
import tensorflow_datasets as tfds

from aa_flax.data import DataError, available, load
from aa_flax.data.sets import own
from aa_flax.data.sets.own import EMBEDDED, FROM_FOLDER, open_origin, stored_name


def test_names():
    assert [name for name in available() if name not in own._ADDED] == [
        "bccd_subset",
        "cifar10",
        "cifar100",
        "fashion_mnist",
        "fashion_mnist_subset",
    ]
    catalogue = set(tfds.list_builders(with_community_datasets=False))
    assert "cifar10" in catalogue
    for name, origin in {**EMBEDDED, **FROM_FOLDER}.items():
        assert origin.stored_name == stored_name(name)
        assert origin.stored_name not in catalogue


def test_prepared_once_then_needs_no_source(fashion, tmp_path):
    first = load("fashion_mnist", data_dir=tmp_path / "tfds", source_dir=fashion.folder)
    stamps = {path: path.stat().st_mtime_ns for path in first.folder.iterdir()}
    again = load("fashion_mnist", data_dir=tmp_path / "tfds", source_dir=fashion.folder)
    assert {path: path.stat().st_mtime_ns for path in again.folder.iterdir()} == stamps
    shutil.rmtree(fashion.folder)
    alone = load("fashion_mnist", data_dir=tmp_path / "tfds")
    assert first.fingerprint == again.fingerprint == alone.fingerprint
    np.testing.assert_array_equal(alone.split("test")[5]["image"][..., 0], fashion.test.images[5])


def test_other_source_files(fashion, tmp_path):
    first = load("fashion_mnist", data_dir=tmp_path / "tfds", source_dir=fashion.folder)
    path = fashion.folder / "t10k-labels-idx1-ubyte.gz"
    path.write_bytes(bytes([0, 0, 8, 1, 0, 0, 0, 11]) + bytes(11))
    with pytest.raises(DataError) as error:
        load("fashion_mnist", data_dir=tmp_path / "tfds", source_dir=fashion.folder)
    assert f"than those that were prepared ({path.name})" in str(error.value)
    assert f"remove {first.folder}" in str(error.value)
    shutil.rmtree(first.folder)
    other = load("fashion_mnist", data_dir=tmp_path / "tfds", source_dir=fashion.folder)
    assert other.fingerprint != first.fingerprint
    assert [example["label"] for example in other.split("test")] == [0] * 11


def test_source_dir_wins_then_own_copy_then_the_catalogue(cifar, tmp_path):
    made = cifar(10, "binary")
    own = load("cifar10", data_dir=tmp_path / "tfds", source_dir=made.folder)
    assert own.folder.parent.name == "aa_cifar10"
    # The same data under the catalogue's name, as `tfds build` would leave it.
    catalogue = tmp_path / "tfds" / "cifar10" / own.folder.name
    shutil.copytree(own.folder, catalogue)
    assert load("cifar10", data_dir=tmp_path / "tfds").folder == own.folder
    shutil.rmtree(own.folder)
    dataset = load("cifar10", data_dir=tmp_path / "tfds")
    assert dataset.folder == catalogue
    assert dataset.mean == own.mean == (0.4914, 0.4822, 0.4465)


def test_source_dir_for_a_set_that_takes_none(tmp_path):
    with pytest.raises(DataError, match="fashion_mnist_subset comes with the library and takes no folder"):
        load("fashion_mnist_subset", data_dir=tmp_path, source_dir=tmp_path)
    with pytest.raises(DataError, match="only fashion_mnist, cifar10, cifar100.* and image_folder/NAME are"):
        load("imagenet2012", data_dir=tmp_path, source_dir=tmp_path)


def test_unwritable_data_dir(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="data_dir: cannot write to .*/file"):
        load("fashion_mnist_subset", data_dir=tmp_path / "file")


def test_full_disk(fashion, tmp_path, monkeypatch):
    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(tfds.core.GeneratorBasedBuilder, "download_and_prepare", full)
    with pytest.raises(DataError, match=r"cannot prepare aa_fashion_mnist \(No space left on device\)"):
        load("fashion_mnist", data_dir=tmp_path / "tfds", source_dir=fashion.folder)


def test_what_a_killed_process_left_is_removed(fashion, tmp_path):
    leftover = tmp_path / "tfds" / "aa_fashion_mnist" / "incomplete.ABCDEF_1.0.0"
    leftover.mkdir(parents=True)
    (leftover / "half").write_text("x")
    dataset = load("fashion_mnist", data_dir=tmp_path / "tfds", source_dir=fashion.folder)
    assert [path.name for path in dataset.folder.parent.iterdir()] == ["1.0.0"]


def test_damaged_metadata(fashion, tmp_path):
    dataset = load("fashion_mnist", data_dir=tmp_path / "tfds", source_dir=fashion.folder)
    (dataset.folder / "metadata.json").write_text("{}")
    with pytest.raises(DataError, match=r"metadata.json: damaged .*remove .*aa_fashion_mnist"):
        load("fashion_mnist", data_dir=tmp_path / "tfds")


def test_nothing_on_the_terminal(fashion, tmp_path, capfd):
    load("fashion_mnist", data_dir=tmp_path / "tfds", source_dir=fashion.folder)
    assert capfd.readouterr().out == ""


def prepare_and_count(source_dir, data_dir, results):
    results.put(len(load("fashion_mnist", data_dir=data_dir, source_dir=source_dir).split("train").cached()))


@pytest.mark.thorough
def test_two_processes_at_once(fashion, tmp_path):
    # Spawned, because the parent has JAX's threads.
    context = multiprocessing.get_context("spawn")
    results = context.Queue()
    arguments = (str(fashion.folder), str(tmp_path / "tfds"), results)
    processes = [context.Process(target=prepare_and_count, args=arguments) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0, 0]
    assert [results.get(timeout=10) for _ in processes] == [23, 23]
    folder = open_origin("fashion_mnist", fashion.folder).stored_name
    assert [path.name for path in (tmp_path / "tfds" / folder).iterdir()] == ["1.0.0"]
