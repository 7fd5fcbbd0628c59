"""Optax chains from a config."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from aa_flax.config.schema import OptimizerConfig
from aa_flax.training.schedules import learning_rate
from aa_flax.training.trust_ratio import scale_by_trust_ratio


def decays(params: Any, exclude: tuple[str, ...]) -> Any:
    """Return a tree of bools: which parameters weight decay shrinks, those whose name ends with none of `exclude`.

    Names are dotted paths, and an ending starts at a dot: "scale" is every parameter of that name, "bn1.scale" the one
    of modules named bn1. Ranks do not decide: biases of stacked blocks are matrices, as position tables are.
    """

    def decide(path: tuple[Any, ...], _: Any) -> bool:
        name = "".join(f".{part.key}" for part in path)
        return not any(name.endswith(f".{ending}") for ending in exclude)

    return jax.tree_util.tree_map_with_path(decide, params)


def optimizer(config: OptimizerConfig, total_steps: int, epoch_steps: int) -> optax.GradientTransformation:
    """Return the optimiser of a config: SGD, RMSProp, AdamW or LAMB.

    SGD has momentum m, learning rate a and weight decay d, for gradients g and weights p:

    l2:        v = m v + g + d p;  p = p - a v        decoupled: v = m v + g;  p = p - a (v + d p)

    where g is first scaled down to a global norm of at most `clip_norm`, and v has Nesterov's look-ahead if asked for.
    RMSProp is TensorFlow 1's, with a mean square s of decay r that starts at one, and momentum of whole steps:

    s = r s + (1 - r) g²;  v = m v + a g / sqrt(s + epsilon);  p = p - v

    where l2 decay adds d p to g before all this, and decoupled decay subtracts a d p from p besides v.
    AdamW (Loshchilov and Hutter, 2019, Algorithm 2, with the decay times the learning rate as in PyTorch) at step t:

    v = b v + (1 - b) g;  s = c s + (1 - c) g²;  u = v / (1 - bᵗ) / (sqrt(s / (1 - cᵗ)) + adam_epsilon) + d p
    p = p - a u

    LAMB (You et al., 2020, Algorithm 2, with Adam's bias correction of moments) with norms of each array:

    p = p - a u ‖p‖ / ‖u‖

    Parameters without weight decay get neither d p nor the factor ‖p‖ / ‖u‖, with which a bias near zero hardly moves.
    timm's Lamb (always_adapt=False) and apex's FusedLAMB (use_nvlamb=False), with which DeiT III was trained, do the
    same. Both also clip to a global norm of 1 (`clip_norm`), and with a weight decay of zero they leave the factor out
    for all parameters; here the names alone decide. optax.lamb scales every parameter.
    """

    return optax.chain(_clip(config), *_after_clip(config, learning_rate(config, total_steps, epoch_steps)))


def in_two_groups(
    config: OptimizerConfig,
    total_steps: int,
    epoch_steps: int,
    *,
    late: Callable[[Any], Any],
    start: int,
    waits: bool,
) -> optax.GradientTransformation:
    """Return the optimiser of a network some of whose parameters wait and learn from a later step on.

    Each group has its own moments and counts, so that Adam corrects the moments of the late group as if training had
    begun when it did; the learning rate is that of the step of the run. The norm of the gradient is that of both.

    Args:
        config, total_steps, epoch_steps: as of `optimizer`.
        late: returns a tree of bools, which parameters wait.
        start: the step, counted from 0, at which they begin.
        waits: whether the steps taken are before that; the state has the same form in both cases.
    """
    rate = learning_rate(config, total_steps, epoch_steps)
    first = optax.chain(*_after_clip(config, rate))
    second = optax.chain(*_after_clip(config, lambda step: rate(step + start)))
    if waits:
        second = optax.GradientTransformation(
            second.init, lambda updates, state, params=None: (jax.tree.map(jnp.zeros_like, updates), state)
        )
    return optax.chain(
        _clip(config),
        optax.masked(first, lambda params: jax.tree.map(lambda waiting: not waiting, late(params))),
        optax.masked(second, late),
    )


def _clip(config: OptimizerConfig) -> optax.GradientTransformation:
    return optax.clip_by_global_norm(config.clip_norm) if config.clip_norm else optax.identity()


def _after_clip(config: OptimizerConfig, rate: optax.Schedule) -> tuple[optax.GradientTransformation, ...]:
    """Return what an optimiser consists of after the clipping of the gradient."""

    def mask(params: Any) -> Any:
        return decays(params, config.weight_decay_exclude)

    descent = optax.scale_by_learning_rate(rate)
    decay = optax.add_decayed_weights(config.weight_decay, mask) if config.weight_decay else optax.identity()
    momentum = optax.trace(config.momentum, config.nesterov) if config.momentum else optax.identity()
    l2 = config.weight_decay_mode == "l2"
    if config.name == "sgd":
        return (*([decay, momentum] if l2 else [momentum, decay]), descent)
    if config.name in ("adamw", "lamb"):
        adam = optax.scale_by_adam(config.beta1, config.beta2, config.adam_epsilon)
        trust = optax.masked(scale_by_trust_ratio(), mask) if config.name == "lamb" else optax.identity()
        return adam, decay, trust, descent
    root = optax.scale_by_rms(config.rms_decay, config.epsilon, initial_scale=1.0, eps_in_sqrt=True)
    if l2:
        return decay, root, descent, momentum
    return root, descent, momentum, _scheduled_decay(config, rate)


def _scheduled_decay(config: OptimizerConfig, rate: optax.Schedule) -> optax.GradientTransformation:
    """Return the transformation that subtracts rate · weight_decay · p from updates that include the rate already."""

    def init(params: Any) -> optax.ScaleByScheduleState:
        del params
        return optax.ScaleByScheduleState(count=jnp.zeros((), jnp.int32))

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, optax.ScaleByScheduleState]:
        pull = rate(state.count) * config.weight_decay
        updates = jax.tree.map(
            lambda u, p, shrinks: u - jnp.asarray(pull, p.dtype) * p if shrinks else u,
            updates,
            params,
            decays(params, config.weight_decay_exclude),
        )
        return updates, optax.ScaleByScheduleState(count=optax.safe_increment(state.count))

    return optax.GradientTransformation(init, update)


def moving_average(average: Any, new: Any, decay: float, bias: Any) -> tuple[Any, Any]:
    """Return the moving average with one more value taken in, leaf by leaf, and its bias.

    Each value counts `decay` times as much as the next one, and after t values the weights add up to 1:

    average = sum over i of decayⁱ xₜ₋ᵢ / sum over i of decayⁱ, for i from 0 to t - 1;  bias = decayᵗ

    which is what Adam's correction makes of an average that starts at zero (Kingma and Ba, 2015, section 3). So the
    random weights before the first step have no part in it. Whole numbers are not averaged; the new one is kept.

    Args:
        average: the average so far; before the first value anything finite.
        new: the value to take in.
        decay: between 0 and 1.
        bias: 1 before the first value, then what the last call returned; a scalar array. With 0 it stays 0, and nothing
            is corrected: the average is `decay * average + (1 - decay) * new`.
    """
    kept = jnp.asarray(decay, bias.dtype)
    bias = kept * bias
    weight = (1 - kept) / (1 - bias)  # exactly 1 at the first value

    def taken_in(a: Any, n: Any) -> Any:
        return a + weight.astype(a.dtype) * (n - a) if jnp.issubdtype(a.dtype, jnp.inexact) else n

    return jax.tree.map(taken_in, average, new), bias
