"""Names of classes, whatever they are, come back from a prepared data set as they were, in every locale."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import odd_names
import pytest
from PIL import Image

from aa_flax.data import DataError, load
from aa_flax.data.check import check
from aa_flax.data.prepared import names_in_lines, open_prepared
from aa_flax.data.sets.own import open_origin, prepare
from aa_flax.data.shrink import Shrunk

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Return a folder with an image in a class of each odd name; its own name and its files' are odd too."""
    folder = tmp_path_factory.mktemp("odd") / os.fsdecode(b"ph\xf6tos [x]\x1b")
    for number, name in enumerate(odd_names.NAMES):
        file = folder / name.replace("/", "") / os.fsdecode(b"\xe9\n.png")
        file.parent.mkdir(parents=True)
        Image.new("RGB", (2, 3), (number, 0, 0)).save(file)
    return folder


def two_classes(folder, *names):
    for name in names:
        (folder / name).mkdir(parents=True)
        Image.new("L", (2, 2)).save(folder / name / "1.png")
    return folder


@pytest.fixture(scope="module")
def dataset(photos, tmp_path_factory):
    return load("image_folder/odd", data_dir=tmp_path_factory.mktemp("tfds"), source_dir=photos)


def test_every_name_survives_with_its_images(dataset):
    expected = [name.replace("/", "") for name in odd_names.NAMES]
    assert sorted(dataset.class_names) == sorted(expected)
    for example in dataset.split("train"):
        assert dataset.class_names[example["label"]] == expected[example["image"][0, 0, 0]]


def test_names_are_kept_as_json_and_in_lines_that_tfds_reads(dataset):
    stored = json.loads((dataset.folder / "metadata.json").read_text("ascii"))
    assert tuple(stored["class_names"]) == dataset.class_names
    lines = (dataset.folder / "label.labels.txt").read_text("ascii").splitlines()
    assert len(set(lines)) == len(lines) == dataset.num_classes
    plain = ["cat", "black cat", "n01440764", "a_b", "it's"]
    assert names_in_lines(plain) == plain
    escaped = names_in_lines(["cat ", " cat", "a\nb", "a\\nb", "\u00e9", "\\x20cat", " "])
    assert len(set(escaped)) == 7 and all(line.isascii() and line == line.strip() and line for line in escaped)


def test_smaller_copies_keep_the_names(dataset, tmp_path):
    folder = prepare(Shrunk(dataset.folder, 2, 90), tmp_path)
    assert open_prepared(folder).class_names == dataset.class_names


def test_folders_of_older_versions_and_of_tfds_keep_theirs(tmp_path):
    folder = prepare(open_origin("image_folder/two", two_classes(tmp_path / "it", "ant", "bee")), tmp_path)
    metadata = folder / "metadata.json"
    stored = json.loads(metadata.read_text())
    names = stored.pop("class_names")
    metadata.write_text(json.dumps(stored))
    assert open_prepared(folder).class_names == tuple(names)
    metadata.unlink()
    assert open_prepared(folder).class_names == tuple(names)
    for wrong in (names[:-1], [*names, "x"], "names", [1, 2]):
        metadata.write_text(json.dumps(stored | {"class_names": wrong}))
        with pytest.raises(DataError, match=r"metadata\.json: expected the names of 2 classes; remove .*1\.1\.0 and"):
            open_prepared(folder)
    metadata.write_bytes(b"\xff{")
    with pytest.raises(DataError, match=r"metadata\.json: damaged"):
        open_prepared(folder)


def test_names_that_were_not_stored_are_an_error(tmp_path, monkeypatch):
    """What is written is read and compared, whatever went wrong between."""
    origin = open_origin("image_folder/two", two_classes(tmp_path / "it", "ant ", "bee"))
    monkeypatch.setattr("aa_flax.data.prepared._class_names", lambda folder, metadata, label: ("ant", "bee"))
    with pytest.raises(DataError, match=r"class names cannot be stored: 'ant '; removed again"):
        prepare(origin, tmp_path)
    assert not list(tmp_path.glob("*/1.1.0"))


def test_names_that_look_alike_are_named_apart_in_errors(tmp_path):
    two_classes(tmp_path / "it" / "train", "ant", "\u00e9")
    two_classes(tmp_path / "it" / "val", "ant", "e\u0301")
    with pytest.raises(DataError, match=r"differ in their classes: 'e\\u0301', '\\xe9'"):
        load("image_folder/it", data_dir=tmp_path, source_dir=tmp_path / "it")


def test_a_data_dir_with_bytes_that_are_no_utf8_is_one_line(dataset, tmp_path):
    folder = tmp_path / os.fsdecode(b"d\xe9")
    shutil.copytree(dataset.folder, folder)
    with pytest.raises(DataError, match="the path has bytes that are no UTF-8; prepared data needs another folder"):
        load("fashion_mnist_subset", data_dir=folder)
    (finding,) = check(folder).findings
    assert finding.startswith(f"{folder}: the path has bytes that are no UTF-8")


@pytest.mark.few
@pytest.mark.parametrize(
    "settings",
    [
        {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONIOENCODING": "ascii:strict"},
        {"LC_ALL": "C.utf8", "PYTHONIOENCODING": "latin-1"},
        {"LC_ALL": "POSIX"},
        {"LC_ALL": "xx_YY.UTF-8", "PYTHONIOENCODING": "utf-8:strict"},
    ],
)
def test_any_locale_prepares_the_same(photos, dataset, settings, tmp_path):
    command = [sys.executable, "-m", "aa_flax.data", "prepare", "image_folder/odd"]
    command += [f"--source_dir={os.fsdecode(os.fsencode(photos))}", f"--data_dir={tmp_path}"]
    done = subprocess.run(command, capture_output=True, env={**os.environ, **settings}, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.decode("ascii").endswith(f"train {dataset.num_classes}; {dataset.num_classes} classes\n")
    again = load("image_folder/odd", data_dir=tmp_path)
    assert (again.class_names, again.fingerprint) == (dataset.class_names, dataset.fingerprint)
