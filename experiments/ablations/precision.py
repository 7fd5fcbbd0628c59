"""Train the same network in float32 and in bfloat16 with three seeds each, to compare their accuracy.

    python experiments/ablations/precision.py --source_dir=FOLDER --write

FOLDER holds the four official files of Fashion-MNIST, of which the first 20,000 training images are used and all 10,000
test images. Parameters and optimiser stay in float32, as does what the library always computes in at least float32:
softmax, normalisation statistics, loss. Everything else is the quickstart's.
"""

import itertools
import math
import os
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

from absl import flags

_ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(_ROOT))  # the checkout need not be installed

from aa_flax.analysis.provenance import provenance  # noqa: E402
from aa_flax.config.command_line import run  # noqa: E402
from aa_flax.json_values import to_json  # noqa: E402
from aa_flax.runs.directory import RunDirectory  # noqa: E402

DTYPES, SEEDS = ("float32", "bfloat16"), (0, 1, 2)
_QUANTILE = 4.303  # 97.5 % quantile of Student's t with two degrees of freedom


def define(values: flags.FlagValues) -> None:
    """Define the flags of the script."""
    flags.DEFINE_string("workdir", "runs/precision", "Folder of the run directories.", flag_values=values)
    flags.DEFINE_string("source_dir", None, "Folder with the official files.", required=True, flag_values=values)
    flags.DEFINE_integer("epochs", 2, "Of each run.", lower_bound=1, flag_values=values)
    flags.DEFINE_bool("write", False, "Store the outcome under experiments/results/.", flag_values=values)


def main(argv: list[str], values: flags.FlagValues) -> None:
    """Train the runs that are not finished, compare their accuracies and print the outcome."""
    del argv
    accuracies: dict[str, list[float]] = {dtype: [] for dtype in DTYPES}
    for seed, dtype in itertools.product(SEEDS, DTYPES):
        result = train(dtype, seed, values)
        assert result["examples"] == 10_000
        accuracies[dtype].append(result["accuracy"])
    outcome = {"accuracy": accuracies, **difference(accuracies["bfloat16"], accuracies["float32"])}
    print(to_json(outcome, indent=1))
    if values.write:
        command = f"python experiments/ablations/precision.py --source_dir=FOLDER --epochs={values.epochs} --write"
        stored = {**provenance(command), "epochs": values.epochs, "seeds": SEEDS, **outcome}
        file = _ROOT / "experiments" / "results" / "precision.json"
        file.write_text(to_json(stored, indent=1) + "\n")


def train(dtype: str, seed: int, values: flags.FlagValues) -> dict[str, Any]:
    """Train one run, unless it is finished, and return its result."""
    folder = Path(values.workdir).absolute() / f"{dtype}_{seed}"
    command = [sys.executable, "-m", "aa_flax.train", f"--workdir={folder}"]
    command += [f"--config={_ROOT / 'experiments' / 'quickstart.py'}", f"--config.seed={seed}"]
    command += [f"--config.model.dtype={dtype}", f"--config.epochs={values.epochs}"]
    command += ["--config.data.name=fashion_mnist", f"--config.data.source_dir={values.source_dir}"]
    command += ["--config.data.train_split=train[:20000]"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(_ROOT), os.environ.get("PYTHONPATH", "")])}
    subprocess.run(command, env=environment, check=True)
    return RunDirectory(folder).read_result() or {}


def difference(ours: list[float], others: list[float]) -> dict[str, Any]:
    """Return the paired differences in percentage points, their mean, and its 95 % interval by Student's t."""
    points = [100 * (a - b) for a, b in zip(ours, others, strict=True)]
    half = _QUANTILE * statistics.stdev(points) / math.sqrt(len(points))
    mean = statistics.mean(points)
    return {
        "bfloat16_minus_float32_points": [round(point, 3) for point in points],
        "mean_difference_points": round(mean, 3),
        "interval_95_points": [round(mean - half, 3), round(mean + half, 3)],
        "standard_error_of_one_accuracy_points": round(100 * math.sqrt(0.9 * 0.1 / 10_000), 2),
    }


if __name__ == "__main__":
    run(main, define, interrupted="interrupted")
