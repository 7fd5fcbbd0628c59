"""Tests of learning-rate schedules, by formulas in float64."""

from fractions import Fraction

import jax
import numpy as np
import pytest

from aa_flax.config.schema import OptimizerConfig
from aa_flax.training.schedules import learning_rate


def test_warm_up_then_cosine():
    schedule = learning_rate(OptimizerConfig(learning_rate=0.4, warmup=0.1), 100, 10)
    steps = np.arange(100)
    expected = np.where(steps < 10, 0.4 * steps / 10, 0.2 * (1 + np.cos(np.pi * (steps - 10) / 90)))
    np.testing.assert_allclose([schedule(step) for step in steps], expected, rtol=1e-5, atol=1e-6)
    constant = learning_rate(OptimizerConfig(learning_rate=0.4, warmup=0.0, schedule="constant"), 100, 10)
    assert constant(0) == constant(99) == pytest.approx(0.4)


def on_every_step(schedule, total_steps):
    """Return the values of a traced schedule, after a check of three of them outside a trace."""
    values = np.asarray(jax.jit(jax.vmap(schedule))(np.arange(total_steps)))
    for step in {0, total_steps // 2, total_steps - 1}:
        np.testing.assert_allclose(schedule(step), values[step], rtol=1e-6)
    return values


@pytest.mark.parametrize("warmup", [0.0, 0.05, 0.45])
def test_steps_drop_at_their_epochs(warmup):
    """The rate drops by 10 at 30, 60, 80 and 90 of 100 epochs of 7 steps, at the first step after each boundary."""
    config = OptimizerConfig(learning_rate=0.4, schedule="steps", warmup=warmup)
    values = on_every_step(learning_rate(config, 700, 7), 700)
    expected = np.zeros(700)
    warm = round(700 * warmup)
    for step in range(700):
        drops = sum(step >= 7 * epoch for epoch in (30, 60, 80, 90))
        expected[step] = 0.4 * step / warm if step < warm else 0.4 / 10**drops
    np.testing.assert_allclose(values, expected, rtol=1e-5)
    if warmup < 0.3:
        np.testing.assert_allclose(values[[209, 210, 419, 420]], [0.4, 0.04, 0.04, 0.004], rtol=1e-6)
    else:
        np.testing.assert_allclose(values[[314, 315]], [0.4 * 314 / 315, 0.04], rtol=1e-5)  # one drop is in the warm-up


def test_boundaries_between_steps_fall_on_the_next():
    config = OptimizerConfig(
        learning_rate=1.0, schedule="steps", warmup=0.0, decay_factor=0.5, decay_at_epochs=(0.5, 1.4)
    )
    values = on_every_step(learning_rate(config, 9, 3), 9)
    np.testing.assert_allclose(values, [1, 1, 0.5, 0.5, 0.5, 0.25, 0.25, 0.25, 0.25])  # due at 1.5 and 4.2 steps


@pytest.mark.parametrize(("epoch_steps", "every"), [(5, 2.4), (7, 2.4), (1251, 2.4), (3, 0.1), (10, 3.0)])
def test_exponential_staircase(epoch_steps, every):
    config = OptimizerConfig(
        learning_rate=0.3, schedule="exponential", warmup=0.1, decay_factor=0.97, decay_every_epochs=every
    )
    total = 30 * epoch_steps
    values = on_every_step(learning_rate(config, total, epoch_steps), total)
    warm, due = 3 * epoch_steps, Fraction(str(every)) * epoch_steps  # exact fractions, so that rounding delays no drop
    drops = np.array([step // due for step in range(total)], float)
    steps = np.arange(total)
    np.testing.assert_allclose(
        values, np.where(steps < warm, 0.3 * steps / warm, 0.3 * 0.97**drops), rtol=1e-5, atol=1e-7
    )
    assert drops[warm] == warm // due >= 1  # warm-up ends below its peak, as in TensorFlow's code


def test_schedules_under_x64_are_exact():
    config = OptimizerConfig(learning_rate=0.3, schedule="exponential", warmup=0.0, decay_factor=0.97)
    with jax.enable_x64(True):
        assert float(learning_rate(config, 120, 1)(119)) == pytest.approx(0.3 * 0.97**49, rel=1e-14)


@pytest.mark.parametrize(("power", "final"), [(1.0, 0.0), (0.9, 1e-4)])
def test_polynomial_with_its_warm_up_in_steps(power, final):
    """The course of UperNet on ADE20k: XCiT's straight line, and mmsegmentation's power 0.9 to 1e-4."""
    config = OptimizerConfig(
        learning_rate=6e-3,
        schedule="polynomial",
        warmup=0.0,
        warmup_steps=15,
        warmup_start=1e-6,
        polynomial_power=power,
        final_learning_rate=final,
    )
    values = on_every_step(learning_rate(config, 1600, 70), 1600)
    expected = []
    for step in range(1600):  # as mmcv's hooks have it: the warm-up takes a part of what is due at this step
        due = (6e-3 - final) * (1 - step / 1600) ** power + final
        lacking = (1 - step / 15) * (1 - 1e-6) if step < 15 else 0.0
        expected.append(due * (1 - lacking))
    np.testing.assert_allclose(values, expected, rtol=2e-6)
    assert values[0] == pytest.approx(6e-9) and values[-1] > final


def test_polynomial_keeps_its_last_digits():
    """One step before the end of 160,000, 1 - t / T would be off by a percent in float32."""
    config = OptimizerConfig(learning_rate=1.0, schedule="polynomial", warmup=0.0)
    rate = learning_rate(config, 160_000, 1263)
    assert float(rate(159_999)) == pytest.approx(1 / 160_000, rel=1e-6)
    assert float(rate(160_000)) == float(rate(170_000)) == 0


def test_steps_after_a_warm_up_in_steps():
    """Detectron2's course: from a thousandth of the rate over whole steps, whatever the length of the run."""
    config = OptimizerConfig(
        learning_rate=0.02,
        schedule="steps",
        warmup=0.0,
        warmup_steps=10,
        warmup_start=1e-3,
        decay_at_epochs=(8.0, 11.0),
    )
    for epoch_steps in (5, 9):
        values = on_every_step(learning_rate(config, 12 * epoch_steps, epoch_steps), 12 * epoch_steps)
        steps = np.arange(12 * epoch_steps)
        drops = (steps >= 8 * epoch_steps).astype(int) + (steps >= 11 * epoch_steps)
        warm = np.minimum(steps / 10, 1)
        np.testing.assert_allclose(values, 0.02 * 0.1**drops * (0.001 * (1 - warm) + warm), rtol=1e-5, atol=2e-9)


def test_cosine_to_a_last_rate():
    config = OptimizerConfig(learning_rate=0.4, warmup=0.1, warmup_start=0.25, final_learning_rate=0.04)
    values = on_every_step(learning_rate(config, 100, 10), 100)
    steps = np.arange(100)
    cosine = 0.04 + 0.36 * (1 + np.cos(np.pi * (steps - 10) / 90)) / 2
    np.testing.assert_allclose(values, np.where(steps < 10, 0.1 + 0.3 * steps / 10, cosine), rtol=1e-5)
