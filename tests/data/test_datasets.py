import dataclasses
import subprocess
import sys
from pathlib import Path

import pytest

import aa_flax
from aa_flax.data import DataError, load

ROOT = Path(aa_flax.__file__).parents[1]


def test_embedded_default(embedded):
    assert embedded.splits == {"train": 8000, "test": 2000}
    assert (embedded.num_classes, embedded.image_shape) == (10, (28, 28, 1))
    assert embedded.mean_pixel == (73,)
    assert load("fashion_mnist_subset", data_dir=embedded.folder.parents[1]) == embedded


@pytest.mark.parametrize("name", ["validation", "train[", "train[:", "", "train[x:]"])
def test_unknown_split(embedded, name):
    with pytest.raises(DataError, match="expected one of train, test, or a part such as") as error:
        embedded.split(name)
    assert repr(name) in str(error.value)


def test_empty_split(embedded):
    with pytest.raises(DataError, match="has no examples; sizes: {'train': 8000, 'test': 2000}"):
        embedded.split("train[:0]")


@pytest.mark.parametrize(
    ("one", "other", "shared"),
    [
        ("train", "test", 0),
        ("train", "train", 8000),
        ("train", "train[90%:]", 800),
        ("train[:90%]", "train[90%:]", 0),
        ("train[:33%]", "train[33%:]", 0),
        ("train[:100]", "train[99:]", 1),
        ("train[-5:]", "train[:-5]", 0),
        ("train+test", "test[:10]", 10),
        ("train+train[:50]", "test+train[49:60]", 11),
        ("all", "test", 2000),
    ],
)
def test_what_splits_share(embedded, one, other, shared):
    assert embedded.shared(one, other) == embedded.shared(other, one) == shared


def test_read_only(embedded):
    with pytest.raises(dataclasses.FrozenInstanceError):
        embedded.name = "other"
    with pytest.raises(TypeError):
        embedded.splits["train"] = 1


def test_augmentation_needs_no_reader():
    code = "import sys; from aa_flax.data.augment import device, erasing, mixing;"
    code += "print({'tensorflow_datasets', 'grain', 'PIL'} & set(sys.modules))"
    assert (
        subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout
        == "set()\n"
    )


def test_no_tensorflow_at_run_time(embedded):
    code = (
        "import sys; from aa_flax import data;"
        f"s = data.load('fashion_mnist_subset', data_dir={str(embedded.folder.parents[1])!r}).split('test').cached();"
        "b = data.eval_batches(s, batch_size=7); next(b); b.close();"
        "print({'tensorflow', 'torch'} & set(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True, timeout=60
    )
    assert (done.stdout, done.stderr) == ("set()\n", "")
