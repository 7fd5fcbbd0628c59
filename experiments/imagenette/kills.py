"""Trains AA-ResNet-18 on Imagenette twice, once undisturbed and once killed with SIGKILL three times: the same result.

    python experiments/imagenette/kills.py --source_dir=FOLDER --write

FOLDER holds imagenette128_webp.npz. Both runs are those of `resnet18.py:aa_resnet18` with fewer epochs, through the
command line, each killed process followed by the same command. Compares result, log and every number of the network.
"""

import json
import os
import random
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from absl import app, flags

_ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(_ROOT))  # the checkout need not be installed

import jax  # noqa: E402
import numpy as np  # noqa: E402
from flax import nnx  # noqa: E402

from aa_flax.analysis.provenance import provenance  # noqa: E402
from aa_flax.runs.directory import RunDirectory  # noqa: E402
from aa_flax.runs.metrics import TIMING, read_metrics  # noqa: E402
from aa_flax.training.trained import load_model  # noqa: E402

_WORKDIR = flags.DEFINE_string("workdir", "runs/kills", "Folder of the two run directories, which must be new.")
_SOURCE_DIR = flags.DEFINE_string("source_dir", None, "Folder with imagenette128_webp.npz.", required=True)
_EPOCHS = flags.DEFINE_integer("epochs", 2, "Of each run.", lower_bound=1)
_KILLS = flags.DEFINE_integer("kills", 3, "How many.", lower_bound=1)
_SEED = flags.DEFINE_integer("seed", 0, "Of the moments.")
_WRITE = flags.DEFINE_bool("write", False, "Store the outcome under experiments/results/.")
_STEPS = 73  # of an epoch: 9,469 images in batches of 128


def main(argv: list[str]) -> None:
    """Train both, compare, report."""
    del argv
    workdir = Path(_WORKDIR.value).absolute()
    straight, killed = workdir / "straight", workdir / "killed"
    train(straight, None)
    drawn = random.Random(_SEED.value)
    total = _EPOCHS.value * _STEPS
    moments = sorted(drawn.sample(range(total // 10, 9 * total // 10), _KILLS.value))
    fell = [train(killed, moment) for moment in moments]
    train(killed, None)
    results = [RunDirectory(folder).read_result() or {} for folder in (straight, killed)]
    outcome: dict[str, Any] = {
        "killed_after_step": fell,
        "accuracy": [result["accuracy"] for result in results],
        "loss": [result["loss"] for result in results],
        "confusions_equal": results[0]["confusion"] == results[1]["confusion"],
        "log_rows": len(rows(straight)),
        "log_rows_differ": sum(a != b for a, b in zip(rows(straight), rows(killed), strict=True)),
        "numbers_of_the_network": sum(leaf.size for leaf in numbers(straight)),
        "numbers_differ": int(sum((a != b).sum() for a, b in zip(numbers(straight), numbers(killed), strict=True))),
        "seconds": [result["train_seconds"] for result in results],
    }
    print(json.dumps(outcome, indent=1))
    if _WRITE.value:
        command = f"python experiments/imagenette/kills.py --source_dir=FOLDER --epochs={_EPOCHS.value} --write"
        stored = {**provenance(command), "model": "aa_resnet18", "epochs": _EPOCHS.value, **outcome}
        file = _ROOT / "experiments" / "results" / "kills.json"
        file.write_text(json.dumps(stored, indent=1) + "\n")


def train(folder: Path, until: int | None) -> int:
    """The command, to its end or killed once its log has a step from `until` on; the last step in the log."""
    config = _ROOT / "experiments" / "imagenette" / "resnet18.py"
    command = [sys.executable, "-m", "aa_flax.train", f"--workdir={folder}", f"--config={config}:aa_resnet18"]
    command += [f"--config.data.source_dir={_SOURCE_DIR.value}", f"--config.epochs={_EPOCHS.value}"]
    command += ["--config.log_every_steps=3", "--config.checkpoint_every_minutes=0.3"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(_ROOT), os.environ.get("PYTHONPATH", "")])}
    with subprocess.Popen(command, env=environment) as process:
        while until is not None and last_step(folder) < until:
            if process.poll() is not None:
                raise SystemExit(f"training ended with {process.returncode} before step {until}")
            time.sleep(0.1)
        if until is not None:
            process.kill()
            print(f"killed after step {last_step(folder)}", flush=True)
        elif process.wait():
            raise SystemExit(f"training failed with {process.returncode}")
    return last_step(folder)


def last_step(folder: Path) -> int:
    """Of the log; 0 before there is one."""
    return max((row["step"] for row in read_metrics(folder / "metrics.jsonl")), default=0)


def rows(folder: Path) -> list[dict[str, Any]]:
    """The log without what depends on the clock."""
    return [{k: v for k, v in row.items() if k not in TIMING} for row in read_metrics(folder / "metrics.jsonl")]


def numbers(folder: Path) -> list[np.ndarray]:
    """Every array of the trained network."""
    model, _ = load_model(RunDirectory(folder))
    return [np.asarray(leaf) for leaf in jax.tree.leaves(nnx.to_pure_dict(nnx.state(model)))]


if __name__ == "__main__":
    app.run(main)
