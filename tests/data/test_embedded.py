import gzip
import hashlib
import os
from pathlib import Path

import numpy as np
import pytest

import aa_flax.data
from aa_flax.data.sets.idx import read_idx

FOLDER = Path(aa_flax.data.__file__).parent / "sets" / "embedded"


def checksums(folder):
    return {name: value for value, name in (line.split() for line in (folder / "SHA256SUMS").read_text().splitlines())}


def test_checksums():
    sums = checksums(FOLDER)
    packed = sorted(FOLDER.glob("*.gz"))
    assert sorted(sums) == sorted([p.name for p in packed] + [p.name.replace(".gz", ".idx") for p in packed])
    assert len(packed) == 4
    for path in packed:
        assert hashlib.sha256(path.read_bytes()).hexdigest() == sums[path.name]
        content = gzip.decompress(path.read_bytes())
        assert hashlib.sha256(content).hexdigest() == sums[path.name.replace(".gz", ".idx")]


def test_size_and_licence():
    assert sum(path.stat().st_size for path in FOLDER.iterdir() if path.is_file()) < 6_000_000
    assert "MIT License" in (FOLDER / "LICENSE").read_text(encoding="utf-8")


@pytest.mark.parametrize(("name", "per_class"), [("train", 800), ("t10k", 200)])
def test_stratified_and_mixed(name, per_class):
    labels = read_idx(FOLDER / f"{name}-labels-idx1-ubyte.gz", rank=1)
    assert np.bincount(labels).tolist() == [per_class] * 10
    # In mixed order, every tenth of the set holds about a tenth of each class; sorted, it would hold one class.
    tenths = np.stack([np.bincount(part, minlength=10) for part in np.split(labels, 10)])
    # Six standard deviations of a hypergeometric count, whose variance is below per_class / 10.
    assert np.abs(tenths - per_class / 10).max() < 6 * np.sqrt(per_class / 10)
    assert read_idx(FOLDER / f"{name}-images-idx3-ubyte.gz", rank=3).shape == (10 * per_class, 28, 28)


def test_statistics(embedded):
    pixels = read_idx(FOLDER / "train-images-idx3-ubyte.gz", rank=3) / 255
    # The constants have four decimals.
    assert abs(pixels.mean() - embedded.mean[0]) < 5e-5
    assert abs(pixels.std() - embedded.std[0]) < 5e-5


def test_script_reproduces_it(tmp_path):
    official = os.environ.get("AA_FLAX_FASHION_MNIST")
    if not official:
        pytest.skip("AA_FLAX_FASHION_MNIST names no folder with the official files")
    from aa_flax.data.sets.embedded.make_subset import make

    make(Path(official), tmp_path)
    made, kept = checksums(tmp_path), checksums(FOLDER)
    # The decompressed content is compared, because another zlib compresses it to other bytes.
    assert {k: v for k, v in made.items() if k.endswith(".idx")} == {
        k: v for k, v in kept.items() if k.endswith(".idx")
    }
