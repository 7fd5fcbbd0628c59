"""Draw a small data set of volumes: solids of six kinds, turned, moved and scaled at random, under noise.

    python -m experiments.solids.make_solids --out=FOLDER

FOLDER gets train.npz and test.npz, to be read as arrays/NAME: `signal` float16 [n, 10, 10, 10, 1], how much of each
voxel a solid fills, with normal noise added; `label` [n]; `classes`, the names.
"""

import argparse
from collections.abc import Callable
from pathlib import Path

import numpy as np

SIDE = 10
"""Voxels along each axis."""
NOISE = 0.2
"""Standard deviation of what is added to each voxel."""
RADII = 0.55, 0.85
"""Of the ball around a solid, where the volume goes from -1 to 1."""
_FINER = 2  # points along each axis of a voxel at which it is looked whether they are inside

Inside = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]
SOLIDS: dict[str, Inside] = {
    "sphere": lambda x, y, z: x**2 + y**2 + z**2 < 0.8**2,
    "cube": lambda x, y, z: np.maximum(np.maximum(abs(x), abs(y)), abs(z)) < 3**-0.5,
    "cylinder": lambda x, y, z: (x**2 + y**2 < 0.45**2) & (abs(z) < 0.89),
    "cone": lambda x, y, z: (np.sqrt(x**2 + y**2) < 0.375 * (1 - z)) & (z > -0.65),
    "torus": lambda x, y, z: (np.sqrt(x**2 + y**2) - 0.7) ** 2 + z**2 < 0.28**2,
    "octahedron": lambda x, y, z: abs(x) + abs(y) + abs(z) < 1,
}
"""Whether a point lies inside each solid, which fits in the ball of radius 1."""


def turned(rng: np.random.Generator) -> np.ndarray:
    """Return a rotation [3, 3], uniform over all."""
    matrix, triangle = np.linalg.qr(rng.normal(size=(3, 3)))
    matrix = matrix * np.sign(np.diag(triangle))
    return matrix * np.sign(np.linalg.det(matrix))


def draw(kind: str, rng: np.random.Generator) -> np.ndarray:
    """Return a solid as how much of each voxel it fills, [side, side, side], with noise."""
    radius = rng.uniform(*RADII)
    centre = rng.uniform(radius - 1, 1 - radius, 3)
    count = SIDE * _FINER
    axis = (2 * np.arange(count) + 1) / count - 1
    points = np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), -1)
    inside = SOLIDS[kind](*np.moveaxis((points - centre) @ turned(rng) / radius, -1, 0))
    filled = inside.reshape(SIDE, _FINER, SIDE, _FINER, SIDE, _FINER).mean((1, 3, 5))
    return filled + rng.normal(size=filled.shape) * NOISE


def make(out: Path, counts: dict[str, int], seed: int) -> None:
    """Write the splits, each with as many solids of each kind."""
    out.mkdir(parents=True, exist_ok=True)
    for number, (split, count) in enumerate(counts.items()):
        rng = np.random.default_rng([seed, number])
        labels = rng.permutation(np.repeat(np.arange(len(SOLIDS)), count))
        volumes = np.stack([draw([*SOLIDS][label], rng) for label in labels])
        np.savez_compressed(
            out / f"{split}.npz",
            signal=volumes[..., None].astype(np.float16),
            label=labels.astype(np.int32),
            classes=np.array([*SOLIDS]),
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--train", type=int, default=200, help="solids of each kind to learn from")
    parser.add_argument("--test", type=int, default=50, help="solids of each kind that are held out")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    counts = {"train": given.train, "test": given.test}
    make(given.out, counts, given.seed)
    print(f"{given.out}: {', '.join(f'{split} {count * len(SOLIDS)}' for split, count in counts.items())} volumes")


if __name__ == "__main__":
    main()
