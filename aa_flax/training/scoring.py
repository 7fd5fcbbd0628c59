"""Scoring a network on held-out data: what the train loop and `aa_flax.evaluate` share."""

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp

from aa_flax import data
from aa_flax.models.functional import PureDict
from aa_flax.tasks import Scores
from aa_flax.tasks.contract import RAW, checked_scores
from aa_flax.training.program import Program
from aa_flax.training.sharding import place_batch

Scorer = Callable[..., Scores]
"""((params, batch_stats), source, between=nothing, raw=None) -> scores of all examples.

`between` is called before each batch. `raw` is another (params, batch_stats), scored on the same batches; its values
are among the scores under their names after "raw_".
"""


def make_scorer(program: Program) -> Scorer:
    """Return a scorer of the network, compiled once for any (params, batch_stats).

    The scorer raises ValueError where the source has no example.
    """
    task = program.task

    def sums_of(variables: tuple[PureDict, PureDict], batch: dict[str, Any]) -> dict[str, jax.Array]:
        return task.score(program.predictions(variables, batch["image"]), batch)

    step = jax.jit(sums_of, out_shardings=program.layout.everywhere)

    def scorer(
        variables: tuple[PureDict, PureDict],
        source: data.Source,
        between: Callable[[], None] = lambda: None,
        raw: tuple[PureDict, PureDict] | None = None,
    ) -> Scores:
        networks = [variables] if raw is None else [variables, raw]
        totals: Any = None
        for batch in _batches(program, source, between):
            sums = [step(each, batch) for each in networks]
            totals = sums if totals is None else jax.tree.map(jnp.add, totals, sums)
        if totals is None:
            raise ValueError("there is no example to evaluate on")
        scores, *others = (checked_scores(task, task.scores(each)) for each in totals)
        values = {RAW + name: value for other in others for name, value in other.values.items()}
        return dataclasses.replace(scores, values={**scores.values, **values})

    return scorer


def _batches(program: Program, source: data.Source, between: Callable[[], None]) -> Iterator[dict[str, Any]]:
    """Yield the batches of `source` on the mesh, as the run's network expects them."""
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
            yield place_batch({name: values for name, values in batch.items() if name != "index"}, program.layout)
