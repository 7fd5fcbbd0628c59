"""Train as `python -m aa_flax.train` does, with every row of the log in MLflow too.

    pip install mlflow
    python -m experiments.with_mlflow --config=experiments/quickstart.py --workdir=runs/mine

The variables of MLflow say where: MLFLOW_TRACKING_URI, MLFLOW_EXPERIMENT_NAME. A run that is resumed goes on there, by
the id that its directory keeps; after a kill it logs some steps again, with the same values.
"""

import dataclasses
from pathlib import Path
from typing import Any

import mlflow
from absl import flags

from aa_flax import train
from aa_flax.config.schema import flatten
from aa_flax.training import RunDirectory


class MlflowLog:
    """The run in MLflow that belongs to a run directory.

    It begins with the first row, because of several processes only the first is given rows.
    """

    def __init__(self, workdir: Path) -> None:
        self._directory, self._begun = RunDirectory(workdir), False

    def __call__(self, row: dict[str, Any]) -> None:
        """Log a row as SPLIT/NAME at its step."""
        if not self._begun:
            self._begin()
        step, split = row.pop("step"), row.pop("split")
        values = {f"{split}/{name}": value for name, value in row.items() if value is not None}
        mlflow.log_metrics(values, step=step)

    def finish(self) -> None:
        """Send the result of the run if it is finished, and end the run there."""
        if self._begun:
            if self._directory.result_file.exists():
                mlflow.log_artifact(str(self._directory.result_file))
            mlflow.end_run()

    def _begin(self) -> None:
        path = self._directory.path
        kept = path / "mlflow_id.txt"
        known = kept.read_text() if kept.exists() else None
        run = mlflow.start_run(run_id=known, run_name=path.name)
        self._begun = True
        if known is None:
            kept.write_text(run.info.run_id)
            mlflow.log_params(flatten(dataclasses.asdict(self._directory.read_config())))  # which may not change later


def main(argv: list[str], values: flags.FlagValues) -> None:
    """Train the network with its log in MLflow."""
    log = MlflowLog(Path(values.workdir))
    train.main(argv, values, on_metrics=log)
    log.finish()


if __name__ == "__main__":
    train.command(main)
