"""Trains ResNet-18, SE-ResNet-18 and AA-ResNet-18 on Imagenette with several seeds; a table and a picture of them.

    python experiments/imagenette/compare.py --source_dir=FOLDER --workdir=runs/imagenette --seeds=0,1

FOLDER holds imagenette128_webp.npz. Each run is one of `resnet18.py` in a process of its own, and goes on where it was
interrupted when the same command is given again. --write stores the outcome under `experiments/results/`.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

from absl import app, flags

_ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(_ROOT))  # the checkout need not be installed

from experiments.imagenette.report import collect, draw, table  # noqa: E402
from experiments.imagenette.resnet18 import MODELS  # noqa: E402

_WORKDIR = flags.DEFINE_string("workdir", "runs/imagenette", "Folder of the run directories.")
_SOURCE_DIR = flags.DEFINE_string("source_dir", "", "Folder with imagenette128_webp.npz; needed once.")
_SEEDS = flags.DEFINE_list("seeds", ["0", "1"], "Seeds, each of which trains every model.")
_WRITE = flags.DEFINE_bool("write", False, "Store JSON, table and curves under experiments/results/.")


def main(argv: list[str]) -> None:
    """Train what is not finished, in the order of the seeds, and report."""
    workdir = Path(_WORKDIR.value).absolute()
    runs = [(model, int(seed), workdir / f"{model}_{seed}") for seed in _SEEDS.value for model in MODELS]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(_ROOT), os.environ.get("PYTHONPATH", "")])}
    head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=_ROOT, capture_output=True, text=True).stdout.strip()
    for model, seed, folder in runs:
        folder.mkdir(parents=True, exist_ok=True)
        if head and not (folder / "commit.txt").exists():
            (folder / "commit.txt").write_text(head + "\n")
        config = _ROOT / "experiments" / "imagenette" / "resnet18.py"
        command = [sys.executable, "-m", "aa_flax.train", f"--workdir={folder}"]
        command += [f"--config={config}:{model}", f"--config.seed={seed}"]
        # Anything after the script's own flags overrides the config.
        command += [*([f"--config.data.source_dir={_SOURCE_DIR.value}"] if _SOURCE_DIR.value else []), *argv[1:]]
        subprocess.run(command, env=environment, check=True)
    measured = collect(runs)
    print(table(measured))
    results = _ROOT / "experiments" / "results" if _WRITE.value else workdir
    (results / "imagenette.json").write_text(json.dumps(measured, indent=1) + "\n")
    (results / "imagenette.md").write_text(table(measured) + "\n")
    draw(measured, results / "imagenette.png")


if __name__ == "__main__":
    app.run(main)
