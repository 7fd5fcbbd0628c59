"""Loss and gradient of one batch, in pieces where the config says so."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array

from aa_flax.config.schema import Config
from aa_flax.data.preprocessing import Preprocessing
from aa_flax.models.functional import Apply, PureDict
from aa_flax.training.augmentation import make_augment
from aa_flax.training.freezing import stop_gradients
from aa_flax.training.losses import LOSSES
from aa_flax.training.sharding import Layout
from aa_flax.training.state import TrainState


class Gradient(NamedTuple):
    """What a batch says."""

    loss: Array  # mean over the batch
    correct: Array  # examples whose class was the most probable one, in the loss's type
    batch_stats: PureDict  # after the batch
    grads: PureDict


def step_keys(config: Config, step: Array) -> tuple[Array, Array]:
    """Random keys of a step, for the augmentation and for the network: a function of seed and step alone."""
    augment_key, model_key = jax.random.split(jax.random.fold_in(jax.random.key(config.seed), step))
    return augment_key, model_key


def make_gradient(
    apply: Apply, config: Config, preprocessing: Preprocessing, layout: Layout | None = None
) -> Callable[[TrainState, dict[str, Array]], Gradient]:
    """The function (state, {"image": uint8 [b,h,w,c], "label": int [b]}) -> Gradient; pure."""
    pieces, prepare = config.optimizer.accumulation_steps, make_augment(config, preprocessing)

    def loss_of(
        params: PureDict, batch_stats: PureDict, images: Array, targets: Array, labels: Array, key: Array
    ) -> Any:
        params = stop_gradients(params, config.model.frozen)
        logits, batch_stats = apply(params, batch_stats, images, train=True, rngs=key)
        loss = LOSSES[config.optimizer.loss](logits, targets).mean()
        # In the loss's type, exact up to 2**24: over devices the two are one sum then.
        return loss, (batch_stats, jnp.sum(logits.argmax(-1) == labels, dtype=loss.dtype))

    gradient = jax.value_and_grad(loss_of, has_aux=True)

    def accumulated(
        params: PureDict, batch_stats: PureDict, images: Array, targets: Array, labels: Array, key: Array
    ) -> Any:
        if pieces == 1:
            (loss, (batch_stats, correct)), grads = gradient(params, batch_stats, images, targets, labels, key)
            return loss, correct, batch_stats, grads

        def one(carry: Any, piece: Any) -> Any:
            batch_stats, loss, correct, grads = carry
            (piece_loss, (batch_stats, piece_correct)), piece_grads = gradient(params, batch_stats, *piece)
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
        zeros = jax.tree.map(jnp.zeros_like, params)
        start = (batch_stats, jnp.zeros((), targets.dtype), jnp.zeros((), targets.dtype), zeros)
        (batch_stats, loss, correct, grads), _ = jax.lax.scan(one, start, (*split, jax.random.split(key, pieces)))
        return loss / pieces, correct, batch_stats, jax.tree.map(lambda g: g / pieces, grads)

    def of_batch(state: TrainState, batch: dict[str, Array]) -> Gradient:
        augment_key, model_key = step_keys(config, state.step)
        images, targets = prepare(batch, augment_key)
        params = layout.gathered(state.params) if layout else state.params
        loss, correct, batch_stats, grads = accumulated(
            params, state.batch_stats, images, targets, batch["label"], model_key
        )
        return Gradient(loss, correct, batch_stats, layout.scattered(grads) if layout else grads)

    return of_batch
