"""Scoring a network on held-out data: what the train loop and `aa_flax.evaluate` share."""

from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp

from aa_flax import data
from aa_flax.models.functional import PureDict
from aa_flax.tasks import Scores
from aa_flax.tasks.contract import checked_scores
from aa_flax.training.program import Program
from aa_flax.training.sharding import place_batch

Scorer = Callable[..., Scores]
"""((params, batch_stats), source, between=nothing) -> scores of all examples; `between` is called before each batch."""


def make_scorer(program: Program) -> Scorer:
    """Return a scorer of the network, compiled once for any (params, batch_stats).

    The scorer raises ValueError where the source has no example.
    """
    task = program.task

    def sums_of(variables: tuple[PureDict, PureDict], batch: dict[str, Any]) -> dict[str, jax.Array]:
        return task.score(program.predictions(variables, batch["image"]), batch)

    step = jax.jit(sums_of, out_shardings=program.layout.everywhere)

    def scorer(
        variables: tuple[PureDict, PureDict], source: data.Source, between: Callable[[], None] = lambda: None
    ) -> Scores:
        totals: Any = None
        for batch in _batches(program, source, between):
            sums = step(variables, batch)
            totals = sums if totals is None else jax.tree.map(jnp.add, totals, sums)
        if totals is None:
            raise ValueError("there is no example to evaluate on")
        return checked_scores(task, task.scores(totals))

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
