"""Tests of the focal loss and of the losses of box regression."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from ops import box_oracle

from aa_flax import ops

# Compiled, because a program for each operation would take longer.
sigmoid_focal_loss = jax.jit(ops.sigmoid_focal_loss, static_argnames=("alpha", "gamma"))
huber_loss = jax.jit(ops.huber_loss, static_argnames="delta")
smooth_l1_loss = jax.jit(ops.smooth_l1_loss, static_argnames="beta")
l1_loss, giou_loss = jax.jit(ops.l1_loss), jax.jit(ops.giou_loss)

PRIOR = -math.log(99)


@pytest.mark.parametrize(
    ("logit", "gamma", "positive", "negative"),
    [
        (0, 2, 0.0433217, 0.1299651),
        (0, 1.5, 0.0612661, 0.1837984),
        (2, 2, 0.00045089, 1.2375586),
        (PRIOR, 1.5, 1.1340664, 7.53775e-6),
    ],
)
def test_known_focal_losses(logit, gamma, positive, negative):
    loss = sigmoid_focal_loss(jnp.full(2, logit, jnp.float32), jnp.array([1.0, 0.0]), gamma=gamma)
    np.testing.assert_allclose(loss, [positive, negative], rtol=2e-5)  # the digits that the table has


def test_defaults_and_kinds_of_targets():
    logits, targets = jnp.array([-3.0, 0.5, 2.0]), np.array([1, 0, 1])
    expected = sigmoid_focal_loss(logits, jnp.asarray(targets, jnp.float32), alpha=0.25, gamma=1.5)
    for given in (jnp.asarray(targets), jnp.asarray(targets, bool), jnp.asarray(targets, jnp.bfloat16)):
        np.testing.assert_array_equal(sigmoid_focal_loss(logits, given), expected)


def focal(logit, target, alpha, gamma):
    """Return the focal loss in float64 by the formula of the paper, 1 - p written as σ(-logit)."""
    p, q = 1 / (1 + np.exp(-logit)), 1 / (1 + np.exp(logit))
    cross_entropy = target * np.log1p(np.exp(-logit)) + (1 - target) * np.log1p(np.exp(logit))
    weight = alpha * target + (1 - alpha) * (1 - target)
    return weight * (target * q + (1 - target) * p) ** gamma * cross_entropy


@pytest.mark.parametrize("gamma", [0, 0.5, 1.5, 2, 3])
def test_focal_loss_and_gradient_over_the_range(gamma):
    logits, targets = (a.ravel() for a in np.meshgrid(np.linspace(-30, 30, 61), [0, 0.1, 0.5, 1]))
    function = functools.partial(sigmoid_focal_loss, alpha=0.25, gamma=gamma)
    arguments = jnp.asarray(logits, jnp.float32), jnp.asarray(targets, jnp.float32)
    # log σ carries 1e-7 of up to 30 into the exponent, times gamma.
    np.testing.assert_allclose(function(*arguments), focal(logits, targets, 0.25, gamma), rtol=2e-5, atol=1e-30)
    gradient = jax.jit(jax.grad(lambda x, t: function(x, t).sum()))(*arguments)
    step = 1e-4
    expected = (focal(logits + step, targets, 0.25, gamma) - focal(logits - step, targets, 0.25, gamma)) / (2 * step)
    np.testing.assert_allclose(gradient, expected, rtol=1e-3, atol=1e-7)


@pytest.mark.parametrize("gamma", [0.5, 1, 1.5, 2])
def test_two_derivatives_are_finite_everywhere(gamma):
    logits = jnp.array([-1e4, -200, -90, -17, -1, 0, 1, 17, 90, 200, 1e4])

    def loss(logit, target):
        return sigmoid_focal_loss(logit, target, gamma=gamma)

    derivatives = jax.jit(jax.vmap(lambda x, t: (loss(x, t), jax.grad(loss)(x, t), jax.grad(jax.grad(loss))(x, t))))
    for target in (0.0, 0.3, 1.0):
        assert all(np.isfinite(values).all() for values in derivatives(logits, jnp.full_like(logits, target)))
    # By symmetry the curvature is the same on both sides, up to alpha; at 0 too, where |x| would have a kink.
    low = derivatives(-logits, jnp.zeros_like(logits))[2] / 0.75
    np.testing.assert_allclose(derivatives(logits, jnp.ones_like(logits))[2] / 0.25, low, rtol=1e-5, atol=1e-7)


def test_focal_loss_is_that_of_optax(rng):
    logits = jnp.asarray(rng.normal(size=(3, 7, 5)) * 4, jnp.float32)
    hard, soft = (
        jnp.asarray(targets, jnp.float32)
        for targets in (rng.integers(0, 2, logits.shape), rng.uniform(size=logits.shape))
    )
    of_optax = jax.jit(optax.sigmoid_focal_loss)
    for targets in (hard, soft):
        for alpha in (0.25, None):
            expected = of_optax(logits, targets, alpha=alpha, gamma=1.5)
            found = sigmoid_focal_loss(logits, targets, alpha=alpha, gamma=1.5)
            np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-7)


def test_gamma_0_is_cross_entropy(rng):
    logits, targets = jnp.asarray(rng.normal(size=9), jnp.float32), jnp.asarray(rng.integers(0, 2, 9), jnp.float32)
    expected = optax.sigmoid_binary_cross_entropy(logits, targets)
    np.testing.assert_allclose(sigmoid_focal_loss(logits, targets, alpha=None, gamma=0.0), expected, rtol=1e-6)


def test_known_huber_losses():
    loss = huber_loss(jnp.array([0.05, 0.1, 0.2, 1]), jnp.zeros(4))
    np.testing.assert_allclose(loss, [0.00125, 0.005, 0.015, 0.095], rtol=1e-6)


@pytest.mark.parametrize("beta", [0, 1 / 9, 1])
def test_smooth_l1_is_its_definition(rng, beta):
    a, b = rng.normal(size=(2, 40))
    d = np.abs(a - b)
    expected = np.where(d < beta, d**2 / (2 * beta or 1), d - beta / 2)
    a, b = jnp.asarray(a, jnp.float32), jnp.asarray(b, jnp.float32)
    np.testing.assert_allclose(smooth_l1_loss(a, b, beta=beta), expected, rtol=1e-5, atol=1e-6)
    if beta == 0:
        np.testing.assert_array_equal(smooth_l1_loss(a, b, beta=0.0), l1_loss(a, b))
    gradient = jax.jit(jax.grad(lambda a: smooth_l1_loss(a, b, beta=beta).sum()))(b)
    np.testing.assert_array_equal(gradient, np.zeros(40))  # no difference, no direction


def test_giou_loss_by_pairs(rng):
    a, b = box_oracle.random_boxes(rng, 30), box_oracle.random_boxes(rng, 30)
    expected = [1 - box_oracle.overlap(x, y, "giou") for x, y in zip(a, b, strict=True)]
    np.testing.assert_allclose(giou_loss(a, b), expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(giou_loss(a.reshape(2, 15, 4), b.reshape(2, 15, 4)).ravel(), giou_loss(a, b))
    gradients = jax.jit(jax.grad(lambda a, b: giou_loss(a, b).sum(), argnums=(0, 1)))(jnp.asarray(a), jnp.asarray(b))
    assert all(np.isfinite(gradient).all() for gradient in gradients)


def test_losses_are_at_least_float32(rng):
    half = jnp.asarray(rng.normal(size=(5, 4)), jnp.bfloat16)
    for loss in (sigmoid_focal_loss, huber_loss, smooth_l1_loss, l1_loss, giou_loss):
        with jax.numpy_dtype_promotion("strict"):
            found = loss(half, abs(half))
        assert found.dtype == jnp.float32
        wide = half.astype(jnp.float32)
        np.testing.assert_array_equal(found, loss(wide, abs(wide)))


def test_what_is_refused():
    zero = jnp.zeros(3)
    with pytest.raises(ValueError, match="delta must be above 0, got 0.0"):
        huber_loss(zero, zero, delta=0.0)
    with pytest.raises(ValueError, match="beta must be at least 0, got -1.0"):
        smooth_l1_loss(zero, zero, beta=-1.0)
