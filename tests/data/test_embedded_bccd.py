"""Tests of the embedded data set of detection."""

import hashlib
import os
from pathlib import Path

import numpy as np
import pytest

import aa_flax.data
from aa_flax.data import load
from aa_flax.data.facts import FACTS

FOLDER = Path(aa_flax.data.__file__).parent / "sets" / "embedded" / "bccd"


@pytest.fixture(scope="module")
def bccd(tmp_path_factory):
    return load("bccd_subset", data_dir=tmp_path_factory.mktemp("tfds"))


def checksums(folder):
    return {name: value for value, name in (line.split() for line in (folder / "SHA256SUMS").read_text().splitlines())}


def test_files():
    files = {path.relative_to(FOLDER).as_posix(): path for path in FOLDER.rglob("*") if path.is_file()}
    files.pop("SHA256SUMS")
    assert {name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in files.items()} == checksums(FOLDER)
    assert sum(path.stat().st_size for path in files.values()) < 1_500_000
    assert "MIT License" in (FOLDER / "LICENSE").read_text()


def test_photographs_and_boxes(bccd):
    facts = FACTS["bccd_subset"]
    assert bccd.splits == {"train": 48, "test": 16} and bccd.splits["train"] == facts.train_examples
    assert bccd.class_names == ("Platelets", "RBC", "WBC") and bccd.image_shape == facts.image_shape
    assert bccd.shared("train", "test") == 0
    for split in bccd.splits:
        labels = []
        for truth in bccd.truths(split):
            assert (truth.height, truth.width) == (240, 320) and not truth.objects.crowd.any()
            assert (truth.objects.boxes[:, 2:] > truth.objects.boxes[:, :2]).all()
            assert (truth.objects.boxes >= 0).all() and (truth.objects.boxes <= [320, 240, 320, 240]).all()
            labels += truth.objects.labels.tolist()
        counts = np.bincount(labels, minlength=3)
        assert (counts >= bccd.splits[split] // 2).all() and counts[1] > 10 * bccd.splits[split] // 2


def test_where_white_cells_are_it_is_violet(bccd):
    """Boxes lie on what they name: a white cell's nucleus is more violet than the rest of its photograph."""
    violet = []
    for truth, example in zip(bccd.truths("train"), bccd.split("train"), strict=True):
        pixels = example["image"].astype(float)
        excess = (pixels[..., 0] + pixels[..., 2]) / 2 - pixels[..., 1]
        for box, label in zip(truth.objects.boxes.round().astype(int), truth.objects.labels, strict=True):
            if label == 2:
                x1, y1, x2, y2 = box
                violet.append(excess[y1:y2, x1:x2].mean() - excess.mean())
    assert len(violet) > 30 and np.mean(np.array(violet) > 0) > 0.9


def test_script_reproduces_it(tmp_path):
    official = os.environ.get("AA_FLAX_BCCD")
    if not official:
        pytest.skip("AA_FLAX_BCCD names no folder with BCCD")
    from aa_flax.data.sets.embedded.make_bccd import make

    make(Path(official), tmp_path)
    made, kept = checksums(tmp_path), checksums(FOLDER)
    # Another Pillow may encode the same pixels to other bytes.
    assert made.keys() == kept.keys()
    assert all(made[name] == kept[name] for name in ("train.json", "test.json", "LICENSE"))
