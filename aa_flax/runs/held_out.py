"""The held-out scores of a run by step, and which of its checkpoints is the best."""

from collections.abc import Collection, Iterable, Mapping
from typing import Any, NamedTuple


class Evaluated(NamedTuple):
    """An evaluation of a run.

    Attributes:
        step: the step after which it was.
        epoch: the epoch that ended there.
        score: the value of the run's headline score; larger is better.
    """

    step: int
    epoch: int
    score: float


class HeldOut:
    """The headline score of each evaluation of a run.

    The best is that of the highest score, of equal ones the first, so that the best changes only where a score is
    higher. A score that is no number is never the best.

    Args:
        headline: the name of the score.
        rows: of the run's log, as `take` takes them.
    """

    def __init__(self, headline: str, rows: Iterable[Mapping[str, Any]] = ()) -> None:
        self.headline = headline
        self._by_step: dict[int, Evaluated] = {}
        self.take(rows)

    def take(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Take the scores of a log's rows; later ones of a step stand for earlier ones, other rows are left out."""
        new = {
            row["step"]: Evaluated(row["step"], row.get("epoch", 0), score)
            for row in rows
            if row["split"] == "eval" and (score := row.get(self.headline)) is not None and score == score
        }
        self._by_step = {**self._by_step, **new}  # replaced as a whole: a thread that saves may be reading

    def at(self, step: int) -> Evaluated | None:
        """Return the evaluation after a step; None if there was none, or its score is no number."""
        return self._by_step.get(step)

    def best(self, steps: Collection[int] | None = None) -> Evaluated | None:
        """Return the best evaluation, of those after `steps` if these are given; None if there is none."""
        found = sorted(each for each in self._by_step.values() if steps is None or each.step in steps)
        return max(found, key=lambda each: each.score, default=None)

    def best_step(self, steps: Collection[int] | None = None) -> int | None:
        """Return the step of the best evaluation, see `best`."""
        best = self.best(steps)
        return None if best is None else best.step

    def compared(self, step: int) -> list[str]:
        """Return how the evaluation after a step compares with the others, in words; [] if another one is better."""
        here, best = self.at(step), self.best()
        if here is None or best is None or here.score < best.score:
            return []
        return ["best so far" if here == best else f"as good as epoch {best.epoch}, the first of the best"]
