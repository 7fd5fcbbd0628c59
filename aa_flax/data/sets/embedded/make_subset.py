"""Makes the embedded subset of Fashion-MNIST from the four official files.

    python -m aa_flax.data.sets.embedded.make_subset FOLDER_WITH_THE_OFFICIAL_FILES [OUTPUT_FOLDER]

800 training and 200 test images of each of the 10 classes, each drawn from the official set of the same name, in
mixed order. Which images, and their order, follow from SHA-256 of (seed, set, index): the same in every version of
every library. The gzip files carry no time stamp. SHA256SUMS lists them; `*.idx` lines are the same files
decompressed, because another zlib may compress the same content to other bytes.
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
    """Indices of `per_class` examples of each class, in the order of the hash of their index."""
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
    """Gzip without file name or time. (`gzip.compress` writes another header from one Python version to the next.)"""
    buffer = io.BytesIO()
    with gzip.GzipFile(filename="", mode="wb", fileobj=buffer, compresslevel=9, mtime=0) as file:
        file.write(content)
    return buffer.getvalue()


def make(official: Path, output: Path) -> None:
    """Writes the four files and their checksums into `output`."""
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
