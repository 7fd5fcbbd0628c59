"""Scoring a network on held-out data: what the train loop and `aa_flax.evaluate` share."""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from aa_flax import data
from aa_flax.models.functional import PureDict
from aa_flax.runs.hosts import gathered
from aa_flax.tasks import Scorer, Scores, rows_of, scorer_of
from aa_flax.tasks.contract import RAW, checked_scores
from aa_flax.training.program import Program
from aa_flax.training.sharding import local_rows, place_batch

Score = Callable[..., Scores]
"""((params, batch_stats), source, between=nothing, raw=None) -> scores of all examples.

`between` is called before each batch. `raw` is another (params, batch_stats), scored on the same batches; its values
are among the scores under their names after "raw_".
"""


def make_scorer(program: Program) -> Score:
    """Return a scorer of the network, compiled once for any (params, batch_stats).

    The scorer raises ValueError where the source has no example.
    """
    task, layout = program.task, program.layout

    gathers = hasattr(task, "scorer")

    def scored(variables: tuple[PureDict, PureDict], batch: dict[str, Any]) -> tuple[dict[str, jax.Array], Any]:
        placement = batch.get("placement")
        predictions = program.predictions(variables, batch["image"], placement)
        return task.score(predictions, batch), rows_of(task, predictions, batch["image"], placement) if gathers else {}

    step = jax.jit(scored, out_shardings=(layout.everywhere, layout.batch))

    def score(
        variables: tuple[PureDict, PureDict],
        source: data.Source,
        between: Callable[[], None] = lambda: None,
        raw: tuple[PureDict, PureDict] | None = None,
    ) -> Scores:
        networks = [variables] if raw is None else [variables, raw]
        scorers = [scorer_of(task, source) for _ in networks]
        totals: Any = None
        kept: Any = None
        for batch in _batches(program, source, between):
            placed = place_batch({name: values for name, values in batch.items() if name != "index"}, layout)
            sums, rows = zip(*(step(each, placed) for each in networks), strict=True)
            _add(scorers, kept)  # of the batch before, while the devices work on this one
            kept = batch, rows
            totals = list(sums) if totals is None else jax.tree.map(jnp.add, totals, list(sums))
        if totals is None:
            raise ValueError("there is no example to evaluate on")
        _add(scorers, kept)
        found = [
            task.scores(each) if scorer is None else scorer.scores(jax.device_get(each), gathered(scorer.state()))
            for each, scorer in zip(totals, scorers, strict=True)
        ]
        scores, *others = (checked_scores(task, each) for each in found)
        values = {RAW + name: value for other in others for name, value in other.values.items()}
        return dataclasses.replace(scores, values={**scores.values, **values})

    return score


def _add(scorers: Sequence[Scorer | None], kept: tuple[dict[str, np.ndarray], Sequence[Any]] | None) -> None:
    """Give each network's scorer, if it has one, this process's rows of a batch, if there is one."""
    if kept is not None:
        batch, rows = kept
        for scorer, each in zip(scorers, rows, strict=True):
            if scorer is not None:
                scorer.add(batch["index"], batch["mask"], local_rows(each), batch.get("placement"))


def _batches(program: Program, source: data.Source, between: Callable[[], None]) -> Iterator[dict[str, np.ndarray]]:
    """Yield this process's share of the batches of `source`, as the run's network expects them."""
    config = program.config
    with data.eval_batches(
        source,
        batch_size=config.eval_batch_size,
        view=program.preprocessing.view(),
        num_threads=config.data.num_threads,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
    ) as batches:
        for batch in batches:
            between()
            yield batch
