"""Fine-tune 1,000 photographs of Imagenette by one command, from weights of CIFAR-10, and learn them from nothing.

    python experiments/imagenette/finetune_folder.py --source_dir=FOLDER --workdir=runs/finetune --write

FOLDER holds cifar10_jpeg.npz and imagenette128_webp.npz. Three runs, each resumed by the same command:

1. `cifar10`: a ResNet-18 half as wide as usual learns CIFAR-10 at 64×64, by `cifar10.py` beside this file. None of its
   photographs is in Imagenette; its "truck" and "dog" are near Imagenette's "garbage truck" and "English springer".
2. `finetuned`: `aa-flax finetune PHOTOS --from=cifar10`, where PHOTOS is a folder with 100 photographs of each class
   of Imagenette's training split, of which the command holds out 200.
3. `scratch`: the same command without --from, with the same network, size and number of epochs. It takes more time
   than 2, whose first epochs learn a classifier alone.

Both networks are then scored on all 3,925 validation photographs of Imagenette, which no run has seen. Of each run the
wall-clock time and the time of the processor are kept: the first of these is what waiting costs, on a machine that has
nothing else to do.
"""

import io
import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from absl import flags

_ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(_ROOT))  # the checkout need not be installed

import numpy as np  # noqa: E402
from PIL import Image  # noqa: E402

import aa_flax  # noqa: E402
from aa_flax.analysis.provenance import provenance  # noqa: E402
from aa_flax.config.command_line import run  # noqa: E402
from aa_flax.json_values import to_json  # noqa: E402
from aa_flax.runs.directory import RunDirectory  # noqa: E402
from experiments.packed import Imagenette128  # noqa: E402

_CIFAR = _ROOT / "experiments" / "imagenette" / "cifar10.py"


def define(values: flags.FlagValues) -> None:
    """Define the flags of the script."""
    flags.DEFINE_string("workdir", "runs/finetune", "Folder of the photographs and the runs.", flag_values=values)
    flags.DEFINE_string("source_dir", None, "Folder with the two npz files.", required=True, flag_values=values)
    flags.DEFINE_integer("seed", 0, "Of the photographs that are drawn, and of all runs.", flag_values=values)
    flags.DEFINE_integer("each", 100, "Photographs of each class.", lower_bound=2, flag_values=values)
    flags.DEFINE_integer("scored", 3925, "Validation photographs that are scored.", lower_bound=1, flag_values=values)
    flags.DEFINE_integer("epochs", 80, "Of fine-tuning and of learning from nothing.", flag_values=values)
    flags.DEFINE_integer("image_size", 128, "Side of the images of these two.", flag_values=values)
    flags.DEFINE_list("cifar", [], "Changes of the run on CIFAR-10, such as --config.epochs=1.", flag_values=values)
    flags.DEFINE_bool("write", False, "Store the outcome under experiments/results/.", flag_values=values)


def main(argv: list[str], values: flags.FlagValues) -> None:
    """Train the three runs and score two of them."""
    del argv
    workdir, source = Path(values.workdir).absolute(), Path(values.source_dir).expanduser().absolute()
    workdir.mkdir(parents=True, exist_ok=True)
    photographs = write_photographs(workdir / "photographs", source, values.each, values.seed)
    data, seed = f"--config.data.data_dir={workdir / 'data'}", f"--config.seed={values.seed}"
    first = [
        f"--config={_CIFAR}",
        f"--config.data.source_dir={source / 'cifar10_jpeg.npz'}",
        data,
        seed,
    ]
    own = [str(photographs), f"--config.epochs={values.epochs}", f"--config.data.image_size={values.image_size}"]
    runs = {
        "cifar10": ["train", *first, *values.cifar],
        "finetuned": ["finetune", *own, f"--from={workdir / 'cifar10'}", data, seed],
        "scratch": ["finetune", *own, data, seed],
    }
    outcome = {
        name: {"command": said(words, workdir, source), **done(words, workdir / name)} for name, words in runs.items()
    }
    for name in ("finetuned", "scratch"):
        outcome[name] |= scored(workdir / name, source, values.scored)
    print(to_json(outcome, indent=1))
    if values.write:
        command = "python experiments/imagenette/finetune_folder.py --source_dir=FOLDER --write"
        stored = {**provenance(command), "photographs": 10 * values.each, "runs": outcome}
        (_ROOT / "experiments" / "results" / "finetune.json").write_text(to_json(stored, indent=1) + "\n")
    print(table(outcome))


def table(outcome: dict[str, Any]) -> str:
    """Return the outcome as the table of `experiments/results/README.md`."""
    rows = ["| run | size | epochs | held out of the folder | validation photographs | wall clock | processor |"]
    rows.append("|---|---|---|---|---|---|---|")
    for name, found in outcome.items():
        size = found["image_size"]
        own = f"{found['accuracy']:.1%} of {found['examples']:,}"
        there = (
            f"{found['validation_accuracy']:.1%} ± {found['standard_error']:.1%}"
            if "validation_accuracy" in found
            else ""
        )
        times = (f"{found[kind] / 60:.1f} min" for kind in ("wall_seconds", "cpu_seconds"))
        rows.append(f"| `{name}` | {size}×{size} | {found['epochs']} | {own} | {there} | {' | '.join(times)} |")
    return "\n".join(rows)


def write_photographs(folder: Path, source: Path, each: int, seed: int) -> Path:
    """Write so many photographs of each class of the training split into folders, unless they are there."""
    origin = Imagenette128(source)
    taken = dict.fromkeys(range(len(origin.class_names)), 0)
    examples: Any = [*origin.splits()["train"]]
    for index in np.random.default_rng(seed).permutation(len(examples)).tolist():
        content, label = examples[index]
        if taken[label] < each:
            taken[label] += 1
            file = folder / origin.class_names[label] / f"{index}.webp"
            file.parent.mkdir(parents=True, exist_ok=True)
            if not file.exists():
                file.write_bytes(content)
    return folder


def said(words: list[str], workdir: Path, source: Path) -> str:
    """Return a command as people would give it."""
    text = " ".join(["aa-flax", *(word for word in words if "data_dir" not in word and "seed" not in word)])
    for path, name in ((workdir, "runs/finetune"), (source, "FOLDER"), (_ROOT / "experiments", "experiments")):
        text = text.replace(str(path), name)
    return text


def done(words: list[str], folder: Path) -> dict[str, Any]:
    """Run a command of aa_flax to its end and return the result of its run, with the seconds that were taken.

    The seconds of a run that was resumed are kept in its directory, and added.
    """
    command, *rest = words
    kept = folder.with_name(f"{folder.name}_seconds.json")
    before = json.loads(kept.read_text()) if kept.exists() else {"wall_seconds": 0.0, "cpu_seconds": 0.0}
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(_ROOT), os.environ.get("PYTHONPATH", "")])}
    if RunDirectory(folder).read_result() is None:
        started, used = time.monotonic(), _cpu_seconds()
        try:
            subprocess.run(
                [sys.executable, "-m", f"aa_flax.{command}", *rest, f"--workdir={folder}"], env=environment, check=True
            )
        finally:
            before = {
                "wall_seconds": round(before["wall_seconds"] + time.monotonic() - started, 1),
                "cpu_seconds": round(before["cpu_seconds"] + _cpu_seconds() - used, 1),
            }
            kept.write_text(to_json(before))
    result = RunDirectory(folder).read_result() or {}
    config = RunDirectory(folder).read_config()
    names = ("accuracy", "examples", "best_score", "epochs", "params", "train_seconds", "images_per_second", "commit")
    return {
        **{name: result[name] for name in names if name in result},
        "model": config.model.name,
        "options": config.model.options,
        "image_size": config.data.image_size,
        "batch_size": config.batch_size,
        "frozen_epochs": config.model.frozen_epochs,
        **before,
    }


def _cpu_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def scored(folder: Path, source: Path, most: int) -> dict[str, Any]:
    """Return the accuracy of a run's network on Imagenette's validation photographs."""
    predictor, origin = aa_flax.load(folder), Imagenette128(source)
    examples: Any = [*origin.splits()["validation"]][:most]
    right = 0
    for content, label in examples:
        right += predictor(Image.open(io.BytesIO(content))).name == origin.class_names[label]
    accuracy = right / len(examples)
    return {
        "validation_accuracy": accuracy,
        "validation_examples": len(examples),
        "standard_error": (accuracy * (1 - accuracy) / len(examples)) ** 0.5,
    }


if __name__ == "__main__":
    run(main, define, interrupted="interrupted; the same command goes on")
