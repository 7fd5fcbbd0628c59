"""Score a trained network on its held-out data, each example once: `python -m aa_flax.evaluate --workdir=DIR`.

With --config the data of that config are scored instead of the run's; they are seen as the run's were, whatever that
config says of sizes and crops. The last line printed is one JSON object.
"""

import dataclasses
import json
from pathlib import Path
from typing import NoReturn

import jax
from absl import flags

from aa_flax import data
from aa_flax.config.command_line import config_value, define_config, define_workdir, fail, run
from aa_flax.config.schema import resolve
from aa_flax.json_values import finite
from aa_flax.models.functional import functional
from aa_flax.runs.checkpoints import CheckpointError
from aa_flax.runs.directory import RunDirectory, RunDirectoryError
from aa_flax.tasks import OPTIONS, option_schemas
from aa_flax.training.program import Program
from aa_flax.training.scoring import make_scorer
from aa_flax.training.sharding import Layout
from aa_flax.training.trained import load_model


def define(values: flags.FlagValues) -> None:
    """Define the flags of the command."""
    define_config(values)
    define_workdir(values)
    flags.DEFINE_string(
        "split", "", "Split to score instead of the config's held-out one, such as train[:10%].", flag_values=values
    )


def main(argv: list[str], values: flags.FlagValues) -> None:
    """Evaluate the network and print its scores."""
    if len(argv) > 1:
        fail(f"unexpected arguments: {' '.join(argv[1:])}")
    directory = RunDirectory(Path(values.workdir))
    given = config_value(values, OPTIONS)
    config = directory.read_config()
    if given is not None:
        other = resolve(given)
        config = dataclasses.replace(config, data=other.data, eval_batch_size=other.eval_batch_size)
    preprocessing = directory.read_preprocessing()
    layout = Layout.of(config)
    layout.check_batch_size("eval_batch_size", config.eval_batch_size)
    dataset = data.load(config.data.name, data_dir=config.data.data_dir, source_dir=config.data.source_dir)
    program = Program.of(config, preprocessing, layout, 1, shapes=True)
    program.task.check_dataset(dataset)
    model, step = load_model(directory)
    _, params, batch_stats = functional(model)
    split = values.split or config.data.eval_split
    variables = layout.place((params, batch_stats))
    with jax.set_mesh(layout.mesh):
        scores = make_scorer(program)(variables, dataset.split(split, program.task.targets))
    for line in program.task.lines(scores):
        print(line)
    result = {**scores.values, "examples": scores.examples, "step": step}
    last = {**result, "dataset": dataset.name, "split": split, "workdir": str(directory.path)}
    print(json.dumps(finite(last)))


def command() -> NoReturn:
    """Run the command line and exit."""
    run(main, define, expected=(RunDirectoryError, CheckpointError, data.DataError), tasks=option_schemas)


if __name__ == "__main__":
    command()
