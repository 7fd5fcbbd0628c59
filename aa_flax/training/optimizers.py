"""Optax chains and learning-rate schedules from a config."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from aa_flax.training.config import OptimizerConfig


def learning_rate(config: OptimizerConfig, total_steps: int) -> optax.Schedule:
    """Linear warm-up from 0 over the first `warmup` fraction of the run, then cosine to 0 or constant."""
    warmup_steps = round(config.warmup * total_steps)
    decay_steps = max(total_steps - warmup_steps, 1)
    after = (
        optax.cosine_decay_schedule(config.learning_rate, decay_steps)
        if config.schedule == "cosine"
        else optax.constant_schedule(config.learning_rate)
    )
    if not warmup_steps:
        return after
    return optax.join_schedules([optax.linear_schedule(0.0, config.learning_rate, warmup_steps), after], [warmup_steps])


def decays(params: Any, exclude: tuple[str, ...]) -> Any:
    """Which parameters weight decay shrinks, as a tree of bools: those whose last name is not in `exclude`."""

    def decide(path: tuple[Any, ...], _: Any) -> bool:
        return path[-1].key not in exclude

    return jax.tree_util.tree_map_with_path(decide, params)


def optimizer(config: OptimizerConfig, total_steps: int) -> optax.GradientTransformation:
    """SGD with momentum m, learning rate a and weight decay d, for gradients g and weights p:

    l2:        v = m v + g + d p;  p = p - a v        decoupled: v = m v + g;  p = p - a (v + d p)

    with g scaled down to a global norm of at most `clip_norm` first, and v + as Nesterov's look-ahead if asked for.
    """

    def mask(params: Any) -> Any:
        return decays(params, config.weight_decay_exclude)

    decay = optax.add_decayed_weights(config.weight_decay, mask) if config.weight_decay else optax.identity()
    momentum = optax.trace(config.momentum, config.nesterov) if config.momentum else optax.identity()
    return optax.chain(
        optax.clip_by_global_norm(config.clip_norm) if config.clip_norm else optax.identity(),
        *([decay, momentum] if config.weight_decay_mode == "l2" else [momentum, decay]),
        optax.scale_by_learning_rate(learning_rate(config, total_steps)),
    )


def moving_average(average: Any, new: Any, decay: float) -> Any:
    """`decay * average + (1 - decay) * new`, leaf by leaf."""
    return jax.tree.map(lambda a, n: a + (1 - jnp.asarray(decay, a.dtype)) * (n - a), average, new)
