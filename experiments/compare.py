"""Train the networks of a config file with several seeds, and make a table and a picture of the results.

    python experiments/compare.py --config=experiments/imagenette/resnet18.py --source_dir=FOLDER --seeds=0,1
    python experiments/compare.py --config=experiments/cifar/weighted_and_pooled.py --source_dir=FOLDER --seeds=0,1

The config file lists in MODELS the networks that its get_config accepts; FOLDER holds the data. Each run is a process
of its own. The same command resumes a run that was interrupted. What follows `--` goes to every training, such as
`-- --config.epochs=2`. --write stores the results under `experiments/results/`, by the name of the config file or
--name; with --add the rows that were stored there of other networks and seeds stay, so that one table can come from
several days or machines.
"""

import json
import os
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

from absl import flags

_ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(_ROOT))  # the checkout need not be installed

from aa_flax.analysis.provenance import commit  # noqa: E402
from aa_flax.config.command_line import run  # noqa: E402
from aa_flax.json_values import to_json  # noqa: E402
from aa_flax.training import RunDirectory  # noqa: E402
from experiments import compare_report, detector_report, segmenter_report  # noqa: E402

_REPORTS: dict[str, Any] = {"AP": detector_report, "mIoU": segmenter_report}
"""Reports by a score that the results of their runs have; the others are of classifiers."""


def define(values: flags.FlagValues) -> None:
    """Define the flags of the script."""
    flags.DEFINE_string("config", None, "Config file with a list MODELS.", required=True, flag_values=values)
    flags.DEFINE_string("name", "", "Name of the outcome's files; the config file's if not given.", flag_values=values)
    flags.DEFINE_string("workdir", "", "Folder of the run directories; runs/NAME if not given.", flag_values=values)
    flags.DEFINE_string("source_dir", "", "Folder with the data; needed once.", flag_values=values)
    flags.DEFINE_list("seeds", ["0", "1"], "Seeds, each of which trains every model.", flag_values=values)
    flags.DEFINE_list("models", [], "Names among MODELS of the file; all if not given.", flag_values=values)
    flags.DEFINE_bool("write", False, "Store JSON, table and curves under experiments/results/.", flag_values=values)
    flags.DEFINE_bool("add", False, "Keep the stored rows of other networks and seeds.", flag_values=values)


def main(argv: list[str], values: flags.FlagValues) -> None:
    """Train the runs that are not finished, in the order of the seeds, and write their results."""
    config = Path(values.config).resolve()
    name = values.name or config.stem
    workdir = Path(values.workdir or f"runs/{name}").absolute()
    models = values.models or [*runpy.run_path(str(config))["MODELS"]]
    runs = [(model, int(seed), workdir / f"{model}_{seed}") for seed in values.seeds for model in models]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(_ROOT), os.environ.get("PYTHONPATH", "")])}
    for model, seed, folder in runs:
        begun_with = compare_report.commit_file(folder)
        begun_with.parent.mkdir(parents=True, exist_ok=True)
        if not begun_with.exists():
            begun_with.write_text(commit() + "\n")
        command = [sys.executable, "-m", "aa_flax.train", f"--workdir={folder}"]
        command += [f"--config={config}:{model}", f"--config.seed={seed}"]
        command += [*([f"--config.data.source_dir={values.source_dir}"] if values.source_dir else []), *argv[1:]]
        subprocess.run(command, env=environment, check=True)
    source = os.path.relpath(config, _ROOT)
    asked = f"python experiments/compare.py --config={source} --source_dir=FOLDER --seeds={','.join(values.seeds)}"
    asked += f" --models={','.join(models)}" if values.models else ""
    asked += " --add" if values.add else ""
    result = RunDirectory(runs[0][2]).read_result() or {}
    report = next((report for score, report in _REPORTS.items() if score in result), compare_report)
    measured = report.collect(runs, asked)
    results = _ROOT / "experiments" / "results" if values.write else workdir
    stored = results / f"{name}.json"
    if values.add and stored.exists():
        measured = compare_report.added(json.loads(stored.read_text()), measured)
    print(report.table(measured))
    stored.write_text(to_json(measured, indent=1) + "\n")
    (results / f"{name}.md").write_text(report.table(measured) + "\n")
    report.draw(measured, results / f"{name}.png")


if __name__ == "__main__":
    run(main, define, interrupted="interrupted")
