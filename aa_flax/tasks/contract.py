"""What every task keeps to, checked where a task is made and where it gives scores."""

import dataclasses
import math
from collections.abc import Iterable, Mapping
from typing import Any

from aa_flax.config.schema import ConfigError

TARGETS = frozenset({"image", "index", "mask", "placement", "pool"})
"""Names in batches that no target may have."""
METRICS = frozenset(
    {"step", "split", "epoch", "seconds", "images_per_second", "loss", "grad_norm", "learning_rate", "skipped"}
)
"""Names in rows of the log that no metric of training may have."""
SCORES = frozenset(
    {"step", "split", "epoch", "seconds", "finished", "examples", "label", "model", "dataset", "epochs", "seed"}
    | {"best_score", "best_epoch", "best_step"}
    | {"params", "flops", "paper_flops", "train_seconds", "images_per_second", "device", "jax", "headline", "workdir"}
    | {"aa_flax", "commit"}
)
"""Names in rows of the log and in results that no score may have."""
RAW = "raw_"
"""Start of the names of scores of the weights of the last step, which are logged beside those of averaged weights."""


def check_task(name: str, task: Any) -> None:
    """Raise ConfigError, in one line, if the attributes of a task clash with what the library keeps of a run."""
    for what, names, taken in (("target", task.targets.shapes, TARGETS), ("metric", task.metrics, METRICS)):
        if clash := sorted(taken & {*names}):
            raise ConfigError(f"task {name!r}: a {what} may not be called {clash[0]!r}; also not {_others(taken)}")
    if not dataclasses.is_dataclass(task.display):
        raise ConfigError(f"task {name!r}: display must be a dataclass, got {task.display!r}")


def check_metrics(task: Any, metrics: Mapping[str, Any]) -> None:
    """Raise ConfigError unless the metrics that `task.losses` returns are those that the task declares."""
    if metrics.keys() != task.metrics.keys():
        returned, declared = _others(metrics) or "none", _others(task.metrics) or "none"
        raise ConfigError(f"task {type(task).__name__}: losses returns the metrics {returned}; declared are {declared}")


def checked_scores(task: Any, scores: Any) -> Any:
    """Return scores of a task with numbers of Python.

    Raises:
        ConfigError: "loss" or the headline is not among them, a name is taken, or a value is no number.
    """
    name = type(task).__name__
    if missing := [score for score in ("loss", task.headline) if score not in scores.values]:
        raise ConfigError(f"task {name}: {missing[0]!r} is not among the scores {', '.join(scores.values)}")
    names = {*scores.values, *scores.details}
    if clash := sorted(each for each in names if each in SCORES or each.startswith(RAW)):
        taken = f"also not {_others(SCORES)}, nor {RAW}NAME"
        raise ConfigError(f"task {name}: a score may not be called {clash[0]!r}; {taken}")
    try:
        values = {score: float(value) for score, value in scores.values.items()}
    except (TypeError, ValueError):
        raise ConfigError(f"task {name}: scores must be numbers, got {dict(scores.values)!r}") from None
    return dataclasses.replace(scores, values=values)


def is_table(value: Any) -> bool:
    """Return whether a detail is a number by name, None where there is none, so that tables can show it."""
    return isinstance(value, Mapping) and all(
        isinstance(name, str) and (number is None or (isinstance(number, int | float) and not math.isnan(number)))
        for name, number in value.items()
    )


def _others(names: Iterable[str]) -> str:
    return ", ".join(sorted(names))
