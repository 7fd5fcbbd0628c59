"""Scoring a network on held-out data: what the train loop and `aa_flax.evaluate` share."""

from collections.abc import Callable, Iterator
from typing import Any

import jax

from aa_flax import data
from aa_flax.config.schema import Config
from aa_flax.data.preprocessing import Preprocessing
from aa_flax.evaluation import Scores, evaluate, make_eval_step
from aa_flax.models.functional import Apply, PureDict
from aa_flax.training.sharding import Layout, place_batch

Scorer = Callable[..., Scores]
"""((params, batch_stats), source, between=nothing): scores of every example; `between` is called before each batch."""


def make_scorer(apply: Apply, preprocessing: Preprocessing, config: Config, layout: Layout) -> Scorer:
    """A scorer of the network with any (params, batch_stats), compiled once."""

    def predict(variables: Any, images: Any) -> Any:
        params, batch_stats = layout.gathered(variables)
        return apply(params, batch_stats, preprocessing.normalize(images))[0]

    step = jax.jit(make_eval_step(predict, preprocessing.num_classes), out_shardings=layout.everywhere)

    def scorer(
        variables: tuple[PureDict, PureDict], source: data.Source, between: Callable[[], None] = lambda: None
    ) -> Scores:
        return evaluate(step, variables, _inputs(source, preprocessing, config, layout, between))

    return scorer


def _inputs(
    source: data.Source, preprocessing: Preprocessing, config: Config, layout: Layout, between: Callable[[], None]
) -> Iterator[dict[str, Any]]:
    """Batches of `source` as the run's network expects them, on the mesh."""
    with data.eval_batches(
        source,
        batch_size=config.eval_batch_size,
        image_size=preprocessing.image_size,
        resize="center_crop" if config.data.crop == "resized" else "squash",
        num_threads=config.data.num_threads,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
    ) as batches:
        for batch in batches:
            between()
            yield place_batch({name: batch[name] for name in ("image", "label", "mask")}, layout)
