"""One optimiser step as a pure function."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh
from jaxtyping import Array

from aa_flax.training.augmentation import make_augment
from aa_flax.training.config import Config
from aa_flax.training.freezing import stop_gradients
from aa_flax.training.losses import LOSSES
from aa_flax.training.optimizers import moving_average
from aa_flax.training.preprocessing import Preprocessing
from aa_flax.training.pure import Apply, PureDict
from aa_flax.training.sharding import replicated
from aa_flax.training.state import TrainState

Step = Callable[[TrainState, dict[str, Array]], TrainState]


def make_train_step(
    apply: Apply, optimizer: optax.GradientTransformation, config: Config, preprocessing: Preprocessing
) -> Step:
    """The function (state, {"image": uint8 [b,h,w,c], "label": int [b]}) -> state; pure, for `jax.jit`.

    Colour jitter, flips, cutout, mixup, dropout draw from a key that is a function of seed and step alone.
    """
    pieces, prepare = config.optimizer.accumulation_steps, make_augment(config, preprocessing)

    def loss_of(
        params: PureDict, batch_stats: PureDict, images: Array, targets: Array, labels: Array, key: Array
    ) -> Any:
        params = stop_gradients(params, config.model.frozen)
        logits, batch_stats = apply(params, batch_stats, images, train=True, rngs=key)
        loss = LOSSES[config.optimizer.loss](logits, targets).mean()
        return loss, (batch_stats, jnp.sum(logits.argmax(-1) == labels, dtype=jnp.int32))

    gradient = jax.value_and_grad(loss_of, has_aux=True)

    def accumulated(state: TrainState, images: Array, targets: Array, labels: Array, key: Array) -> Any:
        if pieces == 1:
            (loss, (batch_stats, correct)), grads = gradient(
                state.params, state.batch_stats, images, targets, labels, key
            )
            return loss, correct, batch_stats, grads

        def one(carry: Any, piece: Any) -> Any:
            batch_stats, loss, correct, grads = carry
            (piece_loss, (batch_stats, piece_correct)), piece_grads = gradient(state.params, batch_stats, *piece)
            return (
                batch_stats,
                loss + piece_loss,
                correct + piece_correct,
                jax.tree.map(jnp.add, grads, piece_grads),
            ), None

        # Every `pieces`-th example makes a piece, so that a batch sharded over devices stays where it is.
        split = [
            x.reshape(x.shape[0] // pieces, pieces, *x.shape[1:]).swapaxes(0, 1) for x in (images, targets, labels)
        ]
        zeros = jax.tree.map(jnp.zeros_like, state.params)
        start = (state.batch_stats, jnp.zeros((), targets.dtype), jnp.zeros((), jnp.int32), zeros)
        (batch_stats, loss, correct, grads), _ = jax.lax.scan(one, start, (*split, jax.random.split(key, pieces)))
        return loss / pieces, correct, batch_stats, jax.tree.map(lambda g: g / pieces, grads)

    def train_step(state: TrainState, batch: dict[str, Array]) -> TrainState:
        augment_key, model_key = jax.random.split(jax.random.fold_in(jax.random.key(config.seed), state.step))
        images, targets = prepare(batch, augment_key)
        loss, correct, batch_stats, grads = accumulated(state, images, targets, batch["label"], model_key)
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        ema = state.ema
        if ema:
            ema = moving_average(ema, {"params": params, "batch_stats": batch_stats}, config.optimizer.ema_decay)
        grad_norm = optax.tree.norm(grads)
        bad = ~(jnp.isfinite(loss) & jnp.isfinite(grad_norm))
        window = state.window
        return TrainState(
            step=state.step + 1,
            params=params,
            batch_stats=batch_stats,
            opt_state=opt_state,
            ema=ema,
            window={
                "examples": window["examples"] + images.shape[0],
                "correct": window["correct"] + correct.astype(jnp.int32),
                "steps": window["steps"] + 1,
                "loss": window["loss"] + loss.astype(jnp.float32),
                "grad_norm": window["grad_norm"] + grad_norm.astype(jnp.float32),
            },
            first_bad_step=jnp.where(bad & (state.first_bad_step < 0), state.step, state.first_bad_step),
        )

    return train_step


def jit_train_step(
    apply: Apply, optimizer: optax.GradientTransformation, config: Config, preprocessing: Preprocessing, mesh: Mesh
) -> Any:
    """`make_train_step` compiled as runs do it: the state is donated and a copy lies on every device."""
    step = make_train_step(apply, optimizer, config, preprocessing)
    return jax.jit(step, donate_argnums=0, out_shardings=replicated(mesh))


def reset_window(state: TrainState) -> TrainState:
    """The state at the start of a log window."""
    return dataclasses.replace(state, window=jax.tree.map(jnp.zeros_like, state.window))
