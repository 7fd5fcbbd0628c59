"""One optimiser step as a pure function."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array

from aa_flax.config.schema import Config
from aa_flax.models.functional import PureDict
from aa_flax.tasks import Task
from aa_flax.tasks.contract import check_metrics
from aa_flax.tasks.micro_batches import cut
from aa_flax.training.freezing import stop_gradients
from aa_flax.training.optimizers import moving_average
from aa_flax.training.resident import taken
from aa_flax.training.sharding import Layout
from aa_flax.training.state import TrainState

Batch = dict[str, Array]
Step = Callable[[TrainState, Batch], TrainState]


class Gradient(NamedTuple):
    """Loss, metrics, batch statistics and gradients of one batch."""

    loss: Array
    metrics: PureDict  # {name: {"sum", "count"}}
    batch_stats: PureDict  # running statistics after the batch
    grads: PureDict


def step_keys(config: Config, step: Array) -> tuple[Array, Array]:
    """Return the random keys of a step, for the batch and for the network: a function of seed and step alone."""
    batch_key, model_key = jax.random.split(jax.random.fold_in(jax.random.key(config.seed), step))
    return batch_key, model_key


def make_gradient(
    task: Task,
    losses: Callable[..., Any],
    config: Config,
    layout: Layout | None = None,
    frozen: Sequence[str] | None = None,
) -> Callable[[TrainState, Batch], Gradient]:
    """Return the function (state, batch) -> Gradient; pure.

    Args:
        task: says how a batch is prepared and what is measured.
        losses: `task.losses` as `functional` makes it.
        config: the config of the run.
        layout: the placement of the arrays; None is one device.
        frozen: the dotted paths of the parts that do not learn; None is those of the config that never do.
    """
    pieces = config.optimizer.accumulation_steps
    if frozen is None:
        frozen = () if config.model.frozen_epochs else config.model.frozen

    def share(params: PureDict, batch_stats: PureDict, images: Any, targets: Any, total: Array, key: Array) -> Any:
        params = stop_gradients(params, frozen)
        (losses_, metrics), batch_stats = losses(params, batch_stats, images, targets, train=True, rngs=key)
        check_metrics(task, metrics)
        measured = {name: dict(zip(("sum", "count"), pair, strict=True)) for name, pair in metrics.items()}
        return losses_.sum() / total, (batch_stats, measured)

    gradient = jax.value_and_grad(share, has_aux=True)

    def summed(params: PureDict, batch_stats: PureDict, images: Any, targets: Any, total: Array, key: Array) -> Any:
        if pieces == 1:
            (loss, (batch_stats, metrics)), grads = gradient(params, batch_stats, images, targets, total, key)
            return loss, metrics, batch_stats, grads

        def one(carry: Any, piece: Any) -> Any:
            batch_stats, sums = carry
            images, targets, key = piece
            (loss, (batch_stats, metrics)), grads = gradient(params, batch_stats, images, targets, total, key)
            return (batch_stats, jax.tree.map(jnp.add, sums, (loss, metrics, grads))), None

        split = (*jax.tree.map(lambda x: cut(x, pieces), (images, targets)), jax.random.split(key, pieces))
        first = jax.tree.map(lambda x: x[0], split)
        (loss, (_, metrics)), grads = jax.eval_shape(gradient, params, batch_stats, first[0], first[1], total, first[2])
        zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), (loss, metrics, grads))
        (batch_stats, (loss, metrics, grads)), _ = jax.lax.scan(one, (batch_stats, zeros), split)
        return loss, metrics, batch_stats, grads

    def of_batch(state: TrainState, batch: Batch) -> Gradient:
        batch_key, model_key = step_keys(config, state.step)
        images, targets, total = task.prepare(batch, batch_key)
        params = layout.gathered(state.params) if layout else state.params
        loss, metrics, batch_stats, grads = summed(params, state.batch_stats, images, targets, total, model_key)
        return Gradient(loss, metrics, batch_stats, layout.scattered(grads) if layout else grads)

    return of_batch


def make_train_step(
    task: Task,
    losses: Callable[..., Any],
    optimizer: optax.GradientTransformation,
    config: Config,
    layout: Layout | None = None,
    frozen: Sequence[str] | None = None,
) -> Step:
    """Return the function (state, batch) -> state; pure, for `jax.jit`.

    A batch has "image" as uint8 [b, h, w, c] and the targets that the task reads of an example, each [b, ...]. With a
    resident training split it has "index" [b] and the "pool" to take these from instead; see `resident`.

    A step whose loss or gradient is infinite or NaN changes `step`, `skipped` and `bad_steps` only: training goes on
    with the next batch, from the same parameters, statistics, averages and optimiser state, its schedule included.
    """
    gradient = make_gradient(task, losses, config, layout, frozen)

    def train_step(state: TrainState, batch: Batch) -> TrainState:
        loss, metrics, batch_stats, grads = gradient(state, taken(batch))
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        ema, ema_bias = state.ema, state.ema_bias
        if ema:
            variables = {"params": params, "batch_stats": batch_stats}
            ema, ema_bias = moving_average(ema, variables, config.optimizer.ema_decay, ema_bias)
        grad_norm = optax.tree.norm(grads)
        good = jnp.isfinite(loss) & jnp.isfinite(grad_norm)
        learned = {"params": params, "batch_stats": batch_stats, "opt_state": opt_state}
        learned |= {"ema": ema, "ema_bias": ema_bias}
        before = {name: getattr(state, name) for name in learned}
        more = {"steps": 1, "loss": loss, "grad_norm": grad_norm, "metrics": metrics}
        return TrainState(
            step=state.step + 1,
            **jax.tree.map(lambda new, old: jnp.where(good, new, old), learned, before),
            window=jax.tree.map(lambda sum_, x: sum_ + jnp.where(good, x, 0).astype(sum_.dtype), state.window, more),
            skipped=state.skipped + ~good,
            bad_steps=jnp.where(good, state.bad_steps, jnp.roll(state.bad_steps, 1).at[0].set(state.step)),
        )

    return train_step


def reset_window(state: TrainState) -> TrainState:
    """Return the state with the sums of its log window set to zero."""
    return dataclasses.replace(state, window=jax.tree.map(jnp.zeros_like, state.window))
