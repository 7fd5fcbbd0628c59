"""Train AA-ResNet-18 on Imagenette once undisturbed and once killed by SIGKILL three times, and compare the results.

    python experiments/imagenette/kills.py --source_dir=FOLDER --write

FOLDER holds imagenette128_webp.npz. Both runs use the command line, with `resnet18.py:aa_resnet18` and fewer epochs;
after each kill the same command is given again. Result, log and every number of the network are compared.
"""

import os
import random
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from absl import flags

_ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(_ROOT))  # the checkout need not be installed

import jax  # noqa: E402
import numpy as np  # noqa: E402
from flax import nnx  # noqa: E402

from aa_flax.analysis.provenance import provenance  # noqa: E402
from aa_flax.config.command_line import run  # noqa: E402
from aa_flax.json_values import to_json  # noqa: E402
from aa_flax.runs.directory import RunDirectory  # noqa: E402
from aa_flax.runs.metrics import TIMING, read_metrics  # noqa: E402
from aa_flax.training.trained import load_model  # noqa: E402

_STEPS = 73  # steps of an epoch: 9,469 images in batches of 128


def define(values: flags.FlagValues) -> None:
    """Define the flags of the script."""
    flags.DEFINE_string(
        "workdir", "runs/kills", "Folder of the two run directories, which must be new.", flag_values=values
    )
    flags.DEFINE_string("source_dir", None, "Folder with imagenette128_webp.npz.", required=True, flag_values=values)
    flags.DEFINE_integer("epochs", 2, "Of each run.", lower_bound=1, flag_values=values)
    flags.DEFINE_integer("kills", 3, "How many.", lower_bound=1, flag_values=values)
    flags.DEFINE_integer("seed", 0, "Of the moments.", flag_values=values)
    flags.DEFINE_bool("write", False, "Store the outcome under experiments/results/.", flag_values=values)


def main(argv: list[str], values: flags.FlagValues) -> None:
    """Train both runs, compare them and print the outcome."""
    del argv
    workdir = Path(values.workdir).absolute()
    straight, killed = workdir / "straight", workdir / "killed"
    train(straight, None, values)
    drawn = random.Random(values.seed)
    total = values.epochs * _STEPS
    moments = sorted(drawn.sample(range(total // 10, 9 * total // 10), values.kills))
    fell = [train(killed, moment, values) for moment in moments]
    train(killed, None, values)
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
    print(to_json(outcome, indent=1))
    if values.write:
        command = f"python experiments/imagenette/kills.py --source_dir=FOLDER --epochs={values.epochs} --write"
        stored = {**provenance(command), "model": "aa_resnet18", "epochs": values.epochs, **outcome}
        file = _ROOT / "experiments" / "results" / "kills.json"
        file.write_text(to_json(stored, indent=1) + "\n")


def train(folder: Path, until: int | None, values: flags.FlagValues) -> int:
    """Run the training command, killed once its log has a step of at least `until`; return the last step in the log."""
    config = _ROOT / "experiments" / "imagenette" / "resnet18.py"
    command = [sys.executable, "-m", "aa_flax.train", f"--workdir={folder}", f"--config={config}:aa_resnet18"]
    command += [f"--config.data.source_dir={values.source_dir}", f"--config.epochs={values.epochs}"]
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
    """Return the last step in the log of a run; 0 if there is none."""
    return max((row["step"] for row in read_metrics(folder / "metrics.jsonl")), default=0)


def rows(folder: Path) -> list[dict[str, Any]]:
    """Return the rows of the log without the values that depend on the clock."""
    return [{k: v for k, v in row.items() if k not in TIMING} for row in read_metrics(folder / "metrics.jsonl")]


def numbers(folder: Path) -> list[np.ndarray]:
    """Return every array of the trained network."""
    model, _ = load_model(RunDirectory(folder))
    return [np.asarray(leaf) for leaf in jax.tree.leaves(nnx.to_pure_dict(nnx.state(model)))]


if __name__ == "__main__":
    run(main, define, interrupted="interrupted")
