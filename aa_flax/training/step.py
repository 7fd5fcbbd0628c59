"""One optimiser step as a pure function."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array

from aa_flax.config.schema import Config
from aa_flax.data.preprocessing import Preprocessing
from aa_flax.models.functional import Apply, PureDict
from aa_flax.training.gradient import make_gradient
from aa_flax.training.optimizers import moving_average
from aa_flax.training.resident import taken
from aa_flax.training.sharding import Layout
from aa_flax.training.state import TrainState

Step = Callable[[TrainState, dict[str, Array]], TrainState]


def make_train_step(
    apply: Apply,
    optimizer: optax.GradientTransformation,
    config: Config,
    preprocessing: Preprocessing,
    layout: Layout | None = None,
) -> Step:
    """The function (state, {"image": uint8 [b,h,w,c], "label": int [b]}) -> state; pure, for `jax.jit`.

    In place of these two, "index" [b] and the "pool" that they are taken from, see `resident`.

    After a step whose loss or gradient is infinite or NaN everything is as before it but `step`, `skipped` and
    `bad_steps`: the data goes on, and parameters, statistics, averages and optimiser with its schedule wait for the
    next batch.
    """
    gradient = make_gradient(apply, config, preprocessing, layout)

    def train_step(state: TrainState, batch: dict[str, Array]) -> TrainState:
        batch = taken(batch)
        loss, correct, batch_stats, grads = gradient(state, batch)
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        ema = state.ema
        if ema:
            ema = moving_average(ema, {"params": params, "batch_stats": batch_stats}, config.optimizer.ema_decay)
        grad_norm = optax.tree.norm(grads)
        good = jnp.isfinite(loss) & jnp.isfinite(grad_norm)
        learned = {"params": params, "batch_stats": batch_stats, "opt_state": opt_state, "ema": ema}
        before = {name: getattr(state, name) for name in learned}
        return TrainState(
            step=state.step + 1,
            **jax.tree.map(lambda new, old: jnp.where(good, new, old), learned, before),
            window=_added(state.window, good, batch["label"].size, correct=correct, loss=loss, grad_norm=grad_norm),
            skipped=state.skipped + ~good,
            bad_steps=jnp.where(good, state.bad_steps, jnp.roll(state.bad_steps, 1).at[0].set(state.step)),
        )

    return train_step


def _added(window: PureDict, good: Array, examples: int, **sums: Array) -> PureDict:
    """The sums of a log window with one more step, if that was good."""
    more: dict[str, Any] = {"examples": examples, "steps": 1, **sums}
    return {name: total + jnp.where(good, more[name], 0).astype(total.dtype) for name, total in window.items()}


def jit_train_step(
    apply: Apply,
    optimizer: optax.GradientTransformation,
    config: Config,
    preprocessing: Preprocessing,
    layout: Layout,
    state: TrainState,
) -> Any:
    """`make_train_step` compiled as runs do it: donated, and left where `layout` puts a state of these shapes."""
    step = make_train_step(apply, optimizer, config, preprocessing, layout)
    return jax.jit(step, donate_argnums=0, out_shardings=layout.of_state(state))


def reset_window(state: TrainState) -> TrainState:
    """The state at the start of a log window."""
    return dataclasses.replace(state, window=jax.tree.map(jnp.zeros_like, state.window))
