"""The state of a run: all that it carries from step to step."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import optax

from aa_flax.models.functional import PureDict

Leaf = Any


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class TrainState:
    """The state of a run, in pure dicts and arrays only, so that a checkpoint holds all of it.

    Random keys are no part of it: they derive from seed and step. Trees of the shapes, shardings or files of these
    arrays have this type too, so the leaves may be anything.
    """

    step: Leaf  # int32, batches seen
    params: PureDict
    batch_stats: PureDict
    opt_state: optax.OptState
    ema: PureDict  # {"params", "batch_stats"}, or empty without EMA
    ema_bias: Leaf  # decay ** good steps, see `moving_average`; 0 where an older version began the run
    window: PureDict  # the log window: number of good steps, sums of loss, grad_norm and the task's metrics
    skipped: Leaf  # int32, steps that were left out because loss or gradient was infinite or NaN
    bad_steps: Leaf  # int32 [8], the steps left out, the last first; -1 if there were fewer

    # The task's metrics may come or go. Runs of older versions lack the bias: zero lets them go on as they began, with
    # averages that start at the first weights.
    by_name: ClassVar[Mapping[str, tuple[str, ...]]] = {"training": ("window", "ema_bias")}

    def items(self) -> dict[str, PureDict]:
        """Return the items of a checkpoint: "model" has all that inference needs, "training" the rest."""
        return {
            item: {name: getattr(self, name) for name in names}
            for item, names in (
                ("model", ("params", "batch_stats", "ema")),
                ("training", ("step", "opt_state", "ema_bias", "window", "skipped", "bad_steps")),
            )
        }

    def with_items(self, items: dict[str, PureDict]) -> "TrainState":
        """Return the state that is made of other items."""
        return TrainState(**items["model"], **items["training"])


def empty_window(metrics: Mapping[str, Any]) -> PureDict:
    """Return the sums of an empty log window; each metric of the task has a sum and the count that divides it."""
    return {
        "steps": jnp.zeros((), jnp.int32),
        "loss": jnp.zeros(()),
        "grad_norm": jnp.zeros(()),
        "metrics": {
            name: {"sum": jnp.zeros((), dtype), "count": jnp.zeros((), dtype)} for name, dtype in metrics.items()
        },
    }


def create_state(
    params: PureDict,
    batch_stats: PureDict,
    optimizer: optax.GradientTransformation,
    ema: bool,
    metrics: Mapping[str, Any] | None = None,
) -> TrainState:
    """Return the state before the first step, with sums for the metrics of a task."""
    averaged = {"params": params, "batch_stats": batch_stats}
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        batch_stats=batch_stats,
        opt_state=optimizer.init(params),
        ema=jax.tree.map(jnp.copy, averaged) if ema else {},
        ema_bias=jnp.ones(()),
        window=empty_window(metrics or {}),
        skipped=jnp.zeros((), jnp.int32),
        bad_steps=jnp.full((8,), -1, jnp.int32),
    )


def evaluated(state: TrainState) -> tuple[PureDict, PureDict]:
    """Return the parameters and batch statistics that a state is evaluated with: the averages if it keeps them."""
    if state.ema:
        return state.ema["params"], state.ema["batch_stats"]
    return state.params, state.batch_stats


def raw(state: TrainState) -> tuple[PureDict, PureDict] | None:
    """Return the parameters and batch statistics of the last step if a state is evaluated with others, or None."""
    return (state.params, state.batch_stats) if state.ema else None
