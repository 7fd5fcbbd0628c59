"""Speed and accuracy of the quickstart in this and in another checkout, trained in turn with the same seeds.

    git worktree add ../before 756416f
    python -m experiments.benchmarks.quickstart_pairs --against=../before              35 minutes, the machine quiet
    python -m experiments.benchmarks.quickstart_pairs --against=../before --seeds 0 --epochs=2          speed, roughly

Each run is `python -m aa_flax.train --config=experiments/quickstart.py` of its checkout, in a process of its own, for
as many epochs as the config says. The order of a pair changes from seed to seed. Stored are both runs' images/s (of the
steps alone, the median over log windows) and held-out accuracy, the median ratio of images/s, and the mean difference
in accuracy with its 95 % interval by Student's t. Both runs use this checkout's Python and packages; the data are
prepared once, before the first run.
"""

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from experiments.benchmarks import results

_ROOT = Path(__file__).parents[2]
# Two-sided 95 % points of Student's t, by degrees of freedom.
T95 = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776, 5: 2.571, 6: 2.447, 7: 2.365, 8: 2.306, 9: 2.262}


def main() -> None:
    """Train the pairs seed by seed, and store the results after each."""
    arguments = parse()
    checkouts = {"before": arguments.against.resolve(), "here": _ROOT}
    pairs: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix="quickstart-") as scratch:
        prepare(Path(scratch))
        for index, seed in enumerate(arguments.seeds):
            pair: dict[str, Any] = {"seed": seed}
            for name in list(checkouts)[:: -1 if index % 2 else 1]:
                pair[name] = run(checkouts[name], seed, arguments.epochs, Path(scratch))
                print(f"seed {seed}, {name}: {pair[name]}", flush=True)
            pairs.append(pair)
            store(arguments, pairs)


def parse() -> argparse.Namespace:
    """Return the command line's arguments."""
    parser = results.flags(__doc__, "quickstart_pairs.json")
    parser.add_argument("--against", type=Path, required=True, metavar="CHECKOUT")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4], help=f"at most {max(T95) + 1}")
    parser.add_argument("--epochs", type=int, help="stop after so many, for a rough look at the speed")
    arguments = parser.parse_args()
    if len(arguments.seeds) > max(T95) + 1:
        parser.error(f"at most {max(T95) + 1} seeds, got {len(arguments.seeds)}")
    return arguments


def prepare(scratch: Path) -> None:
    """Prepare the data set once, so that no timed run does."""
    command = [sys.executable, "-m", "aa_flax.train", "--config=experiments/quickstart.py:plain"]
    command += [f"--workdir={scratch}/data", "--config.stop_after_epoch=1"]
    subprocess.run(command, cwd=_ROOT, env=environment(_ROOT), check=True, stdout=subprocess.DEVNULL)


def run(checkout: Path, seed: int, epochs: int | None, scratch: Path) -> dict[str, Any]:
    """Train once in a checkout; return images/s, accuracy, loss and seconds."""
    workdir = scratch / f"{checkout.name}-{seed}"
    command = [sys.executable, "-m", "aa_flax.train", "--config=experiments/quickstart.py", f"--workdir={workdir}"]
    command += [f"--config.seed={seed}", *([f"--config.stop_after_epoch={epochs}"] if epochs else [])]
    done = subprocess.run(
        command, cwd=checkout, env=environment(checkout), stdout=subprocess.PIPE, text=True, check=True
    )
    result = json.loads(done.stdout.splitlines()[-1])
    return {key: result[key] for key in ("images_per_second", "accuracy", "loss", "train_seconds")}


def environment(checkout: Path) -> dict[str, str]:
    """Return the variables of a process that imports that checkout's package, without settings of JAX from outside."""
    clean = {key: value for key, value in os.environ.items() if not key.startswith(("JAX", "XLA", "TPU"))}
    return {**clean, "PYTHONPATH": str(checkout), "JAX_PLATFORMS": "cpu"}


def store(arguments: argparse.Namespace, pairs: list[dict[str, Any]]) -> None:
    """Write the pairs so far, and the ratio and difference that follow from them."""
    given = [f"--against={arguments.against.name}", "--seeds", *map(str, arguments.seeds)]
    given += [f"--epochs={arguments.epochs}"] if arguments.epochs else []
    before = subprocess.run(
        ["git", "rev-parse", "--short=12", "HEAD"], cwd=arguments.against, capture_output=True, text=True, check=False
    )
    ratios = [pair["here"]["images_per_second"] / pair["before"]["images_per_second"] for pair in pairs]
    record = {
        **results.origin("quickstart_pairs", given),
        "against": before.stdout.strip() or "unknown",
        "images_per_second_ratio": round(statistics.median(ratios), 3),
        "accuracy_difference": difference([pair["here"]["accuracy"] - pair["before"]["accuracy"] for pair in pairs]),
        "pairs": pairs,
    }
    results.store(record, arguments.output)
    print({key: record[key] for key in ("images_per_second_ratio", "accuracy_difference")}, flush=True)


def difference(differences: list[float]) -> dict[str, Any]:
    """Return the mean of the differences, and its 95 % interval if there are several."""
    mean = statistics.mean(differences)
    if len(differences) < 2:
        return {"mean": round(mean, 5), "interval_95": None}
    half = T95[len(differences) - 1] * statistics.stdev(differences) / math.sqrt(len(differences))
    return {"mean": round(mean, 5), "interval_95": [round(mean - half, 5), round(mean + half, 5)]}


if __name__ == "__main__":
    main()
