"""Train a network: `python -m aa_flax.train --config=experiments/quickstart.py --workdir=DIR`.

Fields of the config can be set on the command line: `--config.optimizer.learning_rate=0.1`. The same command resumes a
run that was stopped; for a finished run it prints the result again. The last line printed is one JSON object.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from absl import flags

from aa_flax import data
from aa_flax.analysis.results import print_results
from aa_flax.analysis.whole_run import read_result, whole_run
from aa_flax.config.command_line import config_value, define_config, define_workdir, fail, run
from aa_flax.config.schema import ConfigError, resolve
from aa_flax.runs.checkpoints import CheckpointError
from aa_flax.runs.directory import RunDirectory, RunDirectoryError
from aa_flax.runs.display import displayed
from aa_flax.runs.exits import SAVED, leave
from aa_flax.runs.hosts import is_first, join, parting
from aa_flax.runs.metrics import MetricsError, OnMetrics
from aa_flax.runs.preemption import Preempted, leaving
from aa_flax.tasks import OPTIONS, make_task, option_schemas
from aa_flax.training import determinism
from aa_flax.training.window import NonFiniteError
from aa_flax.weights import WeightsError

EXPECTED = (
    *(ConfigError, NonFiniteError, CheckpointError, MetricsError, RunDirectoryError, data.DataError),
    WeightsError,
)
"""Errors of training that are one line."""


def define(values: flags.FlagValues) -> None:
    """Define the flags of the command."""
    define_config(values, required=True)
    define_workdir(values, "Run directory: created, or resumed if a run lies there.")
    flags.DEFINE_multi_string(
        "beside", [], "Finished run directories whose rows the final table shows too.", flag_values=values
    )


def main(argv: list[str], values: flags.FlagValues, on_metrics: OnMetrics | None = None) -> None:
    """Train the network unless the run is finished, draw its pictures and print its result.

    `on_metrics` is called with each row of the log, as `aa_flax.training.train` says.
    """
    if len(argv) > 1:
        fail(f"unexpected arguments: {' '.join(argv[1:])}")
    config = resolve(config_value(values, OPTIONS))
    if config.deterministic:
        determinism.ask()
    join(config.peer_timeout_seconds)
    directory = RunDirectory(values.workdir)
    directory_results = [_finished(path) for path in values.beside]
    with leaving():
        result = whole_run(config, directory, leave=leave, on_metrics=on_metrics)
    if result is not None:
        show(directory, result, directory_results)


def show(directory: RunDirectory, result: dict[str, Any], others: Sequence[dict[str, Any]] = ()) -> None:
    """Print the result of a run below those of others, as a table and as JSON; in the first process alone."""
    if not is_first():
        return
    config = directory.read_config()
    if not result["finished"]:
        print(f"stopped after epoch {result['epochs']} of {config.epochs}; the same command without it goes on")
    task = make_task(config, directory.read_preprocessing())
    results = [*others, {**result, "workdir": str(directory.path)}]
    print_results(results, task.headline, task.fractions, getattr(task, "beside", ()))


def _finished(path: str) -> dict[str, Any]:
    result = read_result(RunDirectory(path))
    if result is None:
        raise RunDirectoryError(f"--beside: {path} holds no finished run")
    return result


def command(
    main: Callable[[list[str], flags.FlagValues], None] = main,
    define: Callable[[flags.FlagValues], None] = define,
) -> NoReturn:
    """Run the command line and exit.

    `main` is called in the place of this module's, which it may call with `on_metrics`; `--help` has the docstring of
    its module. The flags are those of this command unless `define` defines others.
    """

    @functools.wraps(main)
    def guarded(argv: list[str], values: flags.FlagValues) -> None:
        with displayed(), parting(EXPECTED):
            try:
                main(argv, values)
            except Preempted as reason:
                leave(SAVED, str(reason))  # data threads or a compilation may still run

    goes_on = "interrupted; the same command again goes on from the last checkpoint"
    run(guarded, define, expected=EXPECTED, interrupted=goes_on, tasks=option_schemas)


if __name__ == "__main__":
    command()
