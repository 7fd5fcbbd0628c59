"""Train a network: `python -m aa_flax.train --config=experiments/quickstart.py --workdir=DIR`.

Fields of the config can be set on the command line: `--config.optimizer.learning_rate=0.1`. The same command resumes a
run that was stopped; for a finished run it prints the result again. The last line printed is one JSON object.
"""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import jax
from absl import flags, logging

import aa_flax
from aa_flax import data
from aa_flax.analysis.results import model_costs, print_results
from aa_flax.config.command_line import config_value, define_config, define_workdir, fail, run
from aa_flax.config.schema import Config, ConfigError, resolve
from aa_flax.drawing.plots import learning_curves
from aa_flax.json_values import finite
from aa_flax.runs.checkpoints import CheckpointError
from aa_flax.runs.commit import commit
from aa_flax.runs.directory import RunDirectory, RunDirectoryError
from aa_flax.runs.display import displayed
from aa_flax.runs.exits import SAVED, leave
from aa_flax.runs.hosts import is_first, join, parting
from aa_flax.runs.metrics import MetricsError, OnMetrics, read_metrics
from aa_flax.runs.preemption import Preempted, leaving
from aa_flax.tasks import OPTIONS, make_task, option_schemas
from aa_flax.training import determinism
from aa_flax.training.loop import Outcome, train
from aa_flax.training.window import NonFiniteError

_EXPECTED = (ConfigError, NonFiniteError, CheckpointError, MetricsError, RunDirectoryError, data.DataError)


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
    result = _result(directory)
    if result is not None:
        directory.check(config)
    else:
        with leaving():
            outcome = train(config, directory.path, leave=leave, on_metrics=on_metrics)
            if not is_first():
                return
            result = finite(result_of(config, outcome))
            if outcome.finished:
                directory.write_result(result)
            draw(directory, outcome)
        if not outcome.finished:
            print(f"stopped after epoch {outcome.epoch} of {config.epochs}; the same command without it goes on")
    if is_first():
        task = make_task(config, directory.read_preprocessing())
        results = [*directory_results, {**result, "workdir": str(directory.path)}]
        print_results(results, task.headline, task.fractions, getattr(task, "beside", ()))


def draw(directory: RunDirectory, outcome: Outcome) -> None:
    """Draw the run's pictures into its directory; one that cannot be drawn costs a warning."""
    setup = outcome.setup

    def curves(folder: Path) -> None:
        learning_curves(read_metrics(directory.log), folder / "learning_curves.png")

    def report(folder: Path) -> None:
        setup.program.task.report(outcome.model, outcome.scores, setup.eval_source, folder)

    for picture in (curves, report):
        try:
            with directory.folder() as folder:
                picture(folder)
        except Exception as error:  # of any library that draws; the run itself is finished
            reason = " ".join(str(error).split())[:300]
            logging.warning("a picture of the run could not be drawn: %s: %s", type(error).__name__, reason)


def result_of(config: Config, outcome: Outcome) -> dict[str, Any]:
    """Return the result of a run."""
    setup, scores, best = outcome.setup, outcome.scores, outcome.best
    return {
        "finished": outcome.finished,
        **scores.values,
        "examples": scores.examples,
        "label": config.label or config.model.name,
        "model": config.model.name,
        "dataset": config.data.name,
        "epochs": outcome.epoch,
        "seed": config.seed,
        **model_costs(outcome.model),
        "train_seconds": round(outcome.train_seconds, 1),
        "images_per_second": round(outcome.images_per_second, 1) if outcome.images_per_second > 0 else None,
        "device": jax.devices()[0].device_kind,
        "jax": jax.__version__,
        "aa_flax": aa_flax.__version__,
        "commit": commit(),
        "headline": setup.program.task.headline,
        **({} if best is None else {"best_score": best.score, "best_epoch": best.epoch, "best_step": best.step}),
        **scores.details,
    }


def _result(directory: RunDirectory) -> dict[str, Any] | None:
    """Return the result of a run, None if it is not finished; raise RunDirectoryError if a field is missing."""
    result = directory.read_result()
    needed = {"finished", "dataset", "examples", "params", "flops", "images_per_second", "train_seconds"}
    if result is not None and (missing := sorted(needed - result.keys())):
        raise RunDirectoryError(
            f"{directory.result_file}: damaged, it has no {missing[0]!r}; without it the same command makes it again"
        )
    return result


def _finished(path: str) -> dict[str, Any]:
    result = _result(RunDirectory(path))
    if result is None:
        raise RunDirectoryError(f"--beside: {path} holds no finished run")
    return result


def command(main: Callable[[list[str], flags.FlagValues], None] = main) -> NoReturn:
    """Run the command line and exit.

    `main` is called in the place of this module's, which it may call with `on_metrics`; `--help` has the docstring of
    its module. The flags are those of this command.
    """

    @functools.wraps(main)
    def guarded(argv: list[str], values: flags.FlagValues) -> None:
        with displayed(), parting(_EXPECTED):
            try:
                main(argv, values)
            except Preempted as reason:
                leave(SAVED, str(reason))  # data threads or a compilation may still run

    goes_on = "interrupted; the same command again goes on from the last checkpoint"
    run(guarded, define, expected=_EXPECTED, interrupted=goes_on, tasks=option_schemas)


if __name__ == "__main__":
    command()
