"""Train as `python -m aa_flax.train` does, with every row of the log at Weights & Biases too.

    pip install wandb
    python -m experiments.with_wandb --config=experiments/quickstart.py --workdir=runs/mine

The variables of wandb say where: WANDB_PROJECT, WANDB_ENTITY, WANDB_MODE=offline. A run that is resumed goes on there,
by the id that its directory keeps; after a kill it logs some steps again, with the same values.
"""

import dataclasses
import uuid
from pathlib import Path
from typing import Any

import wandb
from absl import flags

from aa_flax import train
from aa_flax.config.schema import flatten
from aa_flax.training import RunDirectory


class WandbLog:
    """The run at Weights & Biases that belongs to a run directory.

    It begins with the first row, because of several processes only the first is given rows.
    """

    def __init__(self, workdir: Path) -> None:
        self._directory = RunDirectory(workdir)
        self._run: Any = None

    def __call__(self, row: dict[str, Any]) -> None:
        """Log a row as SPLIT/NAME over its step."""
        if self._run is None:
            self._run = self._begun()
        step, split = row.pop("step"), row.pop("split")
        values = {f"{split}/{name}": value for name, value in row.items() if value is not None}
        self._run.log({"step": step, **values})

    def finish(self) -> None:
        """Send the result of the run if it is finished, and wait until all is sent."""
        if self._run is not None:
            result = self._directory.read_result() or {}
            self._run.summary.update({name: value for name, value in result.items() if not isinstance(value, list)})
            self._run.finish()

    def _begun(self) -> Any:
        path = self._directory.path
        kept = path / "wandb_id.txt"
        if not kept.exists():
            kept.write_text(uuid.uuid4().hex)
        config = flatten(dataclasses.asdict(self._directory.read_config()))
        run = wandb.init(id=kept.read_text(), resume="allow", name=path.name, dir=str(path), config=config)
        run.define_metric("train/*", step_metric="step")  # wandb's own steps may not go back, as a resumed run's do
        run.define_metric("eval/*", step_metric="step")
        return run


def main(argv: list[str], values: flags.FlagValues) -> None:
    """Train the network with its log at Weights & Biases."""
    log = WandbLog(Path(values.workdir))
    train.main(argv, values, on_metrics=log)
    log.finish()


if __name__ == "__main__":
    train.command(main)
