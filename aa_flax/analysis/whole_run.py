"""A run as commands have it: trained to its end, with its pictures and its result in its directory."""

from collections.abc import Callable
from typing import Any

import jax
from absl import logging

import aa_flax
from aa_flax.analysis.results import model_costs
from aa_flax.config.schema import Config
from aa_flax.drawing.plots import learning_curves
from aa_flax.json_values import finite
from aa_flax.runs.commit import commit
from aa_flax.runs.directory import RunDirectory, RunDirectoryError
from aa_flax.runs.exits import Leave
from aa_flax.runs.hosts import is_first
from aa_flax.runs.metrics import OnMetrics, read_metrics
from aa_flax.training.loop import Outcome, train


def whole_run(
    config: Config, directory: RunDirectory, *, leave: Leave | None = None, on_metrics: OnMetrics | None = None
) -> dict[str, Any] | None:
    """Train a run to its end unless it is finished, keep its result and draw its pictures; return the result.

    Of several processes only the first has a result; in the others it is None. A run that `stop_after_epoch` ends early
    has a result too, whose "finished" is False.

    Args:
        config: what to train.
        directory: the directory of the run.
        leave, on_metrics: as of `aa_flax.training.train`.

    Raises:
        RunDirectoryError: the result is damaged; and what `aa_flax.training.train` raises.
    """
    if (result := read_result(directory)) is not None:
        directory.check(config)
        return result
    outcome = train(config, directory.path, leave=leave, on_metrics=on_metrics)
    if not is_first():
        return None
    result = finite(result_of(config, outcome))
    if outcome.finished:
        directory.write_result(result)
    draw(directory, outcome)
    return result


def draw(directory: RunDirectory, outcome: Outcome) -> None:
    """Draw the run's pictures into its directory; one that cannot be drawn costs a warning."""
    folder, setup = directory.path, outcome.setup
    pictures = (
        lambda: learning_curves(read_metrics(directory.log), folder / "learning_curves.png"),
        lambda: setup.program.task.report(outcome.model, outcome.scores, setup.eval_source, folder),
    )
    for picture in pictures:
        attempt(picture)


def attempt(picture: Callable[[], Any]) -> None:
    """Draw a picture of a finished run; one that cannot be drawn costs a warning."""
    try:
        picture()
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


def read_result(directory: RunDirectory) -> dict[str, Any] | None:
    """Return the result of a run, None if it is not finished; raise RunDirectoryError if a field is missing."""
    result = directory.read_result()
    needed = {"finished", "dataset", "examples", "params", "flops", "images_per_second", "train_seconds"}
    if result is not None and (missing := sorted(needed - result.keys())):
        raise RunDirectoryError(
            f"{directory.result_file}: damaged, it has no {missing[0]!r}; without it the same command makes it again"
        )
    return result
