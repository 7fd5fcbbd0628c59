"""Learning-rate schedules from a config."""

from typing import Any

import jax.numpy as jnp
import numpy as np
import optax

from aa_flax.config.schema import OptimizerConfig


def learning_rate(config: OptimizerConfig, total_steps: int, epoch_steps: int) -> optax.Schedule:
    """Return the function from a step t, counted from 0, to its learning rate: a linear warm-up, then the schedule.

    The warm-up takes W steps, `warmup_steps` or the `warmup` fraction of the T steps of the run, from `warmup_start`
    times the peak to the peak. After it, with F = `final_learning_rate` and p = `polynomial_power`:

    cosine:       F + (learning_rate - F) (1 + cos(π (t - W) / (T - W))) / 2
    constant:     learning_rate
    steps:        learning_rate · decay_factor ** (how many of `decay_at_epochs` have passed)
    exponential:  learning_rate · decay_factor ** floor(epoch / decay_every_epochs)
    polynomial:   F + (learning_rate - F) (1 - t / T) ** p

    The last three count from the start of the run, warm-up included: two as the TensorFlow code of MnasNet does, and
    the polynomial as mmcv's PolyLrUpdaterHook, whose warm-up scales what the polynomial gives at each step.
    """
    warmup_steps = warmup_length(config, total_steps)
    if config.schedule == "polynomial":
        return _polynomial(config, total_steps, warmup_steps)
    if config.schedule == "cosine":
        final = config.final_learning_rate / config.learning_rate if config.learning_rate else 0.0
        after = optax.cosine_decay_schedule(config.learning_rate, max(total_steps - warmup_steps, 1), final)
    elif config.schedule == "constant":
        after = optax.constant_schedule(config.learning_rate)
    else:
        after = _staircase(config, total_steps, epoch_steps, warmup_steps)
    if not warmup_steps:
        return after
    start = config.warmup_start * config.learning_rate
    return optax.join_schedules(
        [optax.linear_schedule(start, config.learning_rate, warmup_steps), after], [warmup_steps]
    )


def warmup_length(config: OptimizerConfig, total_steps: int) -> int:
    """Return the number of steps of the warm-up."""
    return config.warmup_steps or round(config.warmup * total_steps)


def _polynomial(config: OptimizerConfig, total_steps: int, warmup_steps: int) -> optax.Schedule:
    final, start = config.final_learning_rate, config.warmup_start

    def schedule(step: Any) -> Any:
        # The steps that are left are a whole number, which is exact: 1 - t / T would lose its last digits at the end.
        left = jnp.asarray(jnp.clip(total_steps - step, 0), jnp.result_type(float)) / total_steps
        rate = (config.learning_rate - final) * left**config.polynomial_power + final
        if not warmup_steps:
            return rate
        warm = jnp.asarray(jnp.clip(step, max=warmup_steps), rate.dtype) / warmup_steps
        return rate * (start + (1 - start) * warm)

    return schedule


def _staircase(config: OptimizerConfig, total_steps: int, epoch_steps: int, start: int) -> optax.Schedule:
    """Return either schedule of sudden drops, as a function of the steps since `start`.

    The drops before each step are counted in float64 on the host: the steps between two drops are seldom a whole number
    (3002.4 for ImageNet in the MnasNet recipe), and float32 would put some drops a step off.
    """
    steps, slack = np.arange(total_steps), 1e-6  # a drop due at 7.000000001 by rounding alone is due at step 7
    if config.schedule == "steps":
        due = np.asarray(config.decay_at_epochs) * epoch_steps
        drops = np.searchsorted(due - slack, steps, side="right")
    else:
        drops = np.floor((steps + slack) / (config.decay_every_epochs * epoch_steps)).astype(int)
    boundaries = np.flatnonzero(np.diff(drops)) + 1
    values = config.learning_rate * config.decay_factor ** drops[[0, *boundaries]].astype(float)

    def schedule(since_start: Any) -> Any:
        return jnp.asarray(values, jnp.result_type(float))[jnp.sum(since_start + start >= boundaries)]

    return schedule
