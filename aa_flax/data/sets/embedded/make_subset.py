"""Make the embedded subset of Fashion-MNIST from the four official files.

    python -m aa_flax.data.sets.embedded.make_subset FOLDER_WITH_THE_OFFICIAL_FILES [OUTPUT_FOLDER]

The subset has 800 training and 200 test images of each of the 10 classes, chosen from the official split of the same
name, in mixed order. The choice and the order depend on the SHA-256 of (seed, split, index) only, so that they are the
same with every version of every library. The gzip files have no time stamp. SHA256SUMS has a line for each of them, and
a line `*.idx` for its decompressed content, because another zlib may compress the same content to other bytes.
"""

import gzip
import hashlib
import io
import sys
from pathlib import Path

import numpy as np

from aa_flax.data.errors import DataError
from aa_flax.data.sets.idx import encode_idx, read_idx

SEED = 2019
PER_CLASS = {"train": 800, "t10k": 200}
CHECKSUMS = "SHA256SUMS"


def chosen(labels: np.ndarray, per_class: int, name: str) -> list[int]:
    """Return the indices of `per_class` examples of each class, in the order of the hashes of their indices.

    Args:
        labels: [n], the labels of the official split.
        per_class: the number of examples of each class.
        name: the official name of the split, "train" or "t10k".

    Raises:
        DataError: a class has fewer examples.
    """
    remaining = dict.fromkeys(range(10), per_class)
    indices = []
    for index in sorted(range(len(labels)), key=lambda i: hashlib.sha256(f"{SEED} {name} {i}".encode()).digest()):
        label = int(labels[index])
        if remaining[label]:
            remaining[label] -= 1
            indices.append(index)
    if any(remaining.values()):
        raise DataError(f"{name}: too few examples, still missing per class: {remaining}")
    return indices


def compressed(content: bytes) -> bytes:
    """Compress by gzip without file name or time. (The header of `gzip.compress` depends on the version of Python.)"""
    buffer = io.BytesIO()
    with gzip.GzipFile(filename="", mode="wb", fileobj=buffer, compresslevel=9, mtime=0) as file:
        file.write(content)
    return buffer.getvalue()


def make(official: Path, output: Path) -> None:
    """Write the four files of the subset and their checksums into `output`, from the files in `official`."""
    sums = []
    for name, per_class in PER_CLASS.items():
        labels = read_idx(official / f"{name}-labels-idx1-ubyte.gz", rank=1)
        images = read_idx(official / f"{name}-images-idx3-ubyte.gz", rank=3)
        indices = chosen(labels, per_class, name)
        for kind, array in (("images-idx3-ubyte", images), ("labels-idx1-ubyte", labels)):
            content = encode_idx(array[indices])
            packed = compressed(content)
            (output / f"{name}-{kind}.gz").write_bytes(packed)
            sums.append(f"{hashlib.sha256(packed).hexdigest()}  {name}-{kind}.gz")
            sums.append(f"{hashlib.sha256(content).hexdigest()}  {name}-{kind}.idx")
    (output / CHECKSUMS).write_text("\n".join(sums) + "\n")


if __name__ == "__main__":
    if len(sys.argv) not in (2, 3):
        sys.exit(__doc__)
    make(Path(sys.argv[1]), Path(sys.argv[2]) if len(sys.argv) == 3 else Path(__file__).parent)
