"""Mean and variance in one pass over an array, without cancellation."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from aa_flax.ops.platform import target_platform
from aa_flax.precision import at_least_float32

_CANCELS = 1e3
"""Largest ratio of (mean - shift)² to the variance. There, the variance has a thousandth of float32's precision."""


def moments(
    x: Float[Array, "*g b c"], axes: tuple[int, ...], *, expected: Float[Array, " c"], epsilon: float
) -> tuple[Float[Array, "..."], Float[Array, "..."]]:
    """Return the mean and the variance of `x` over `axes`, which stay as axes of length 1, in at least float32.

    One pass over shifted numbers, d = x - shift:

        mean = shift + E[d]        variance = E[d²] - E[d]²

    The difference loses no precision unless the mean of d is far larger than the standard deviation; the mean of `x`
    may be large. The shift is the mean over the batch at the middle location of the maps. On a TPU, the preceding
    convolution sums up what it writes, and a shift that depends on its values would cost another pass. There the shift
    is `expected`; if that is so wrong that precision suffers, a second pass is made around the mean just found.

    Args:
        x: [..., c]; the first of `axes` is the batch.
        axes: consecutive, up to the last axis but one.
        expected: an estimate of the mean, the same for all groups; in batch norm the running mean.
        epsilon: what will be added to the variance; smaller errors do not matter.
    """
    return _moments(axes, epsilon, target_platform() == "tpu", x, expected)


@functools.partial(jax.custom_jvp, nondiff_argnums=(0, 1, 2))
def _moments(axes: tuple[int, ...], epsilon: float, by_expected: bool, x: Array, expected: Array) -> Any:
    wide = x.astype(at_least_float32(x.dtype))
    if not by_expected:
        return _shifted_moments(wide, axes, _middle(x, axes, wide.dtype))
    shift = expected.astype(wide.dtype).reshape((1,) * (x.ndim - 1) + (-1,))
    mean, variance = _shifted_moments(wide, axes, shift)
    cancels = (jnp.square(mean - shift) > _CANCELS * (variance + epsilon)).any()
    again = lambda x, mean: _shifted_moments(x.astype(wide.dtype), axes, mean)  # noqa: E731
    return jax.lax.cond(cancels, again, lambda x, mean: (mean, variance), x, mean)


@_moments.defjvp
def _moments_jvp(axes: tuple[int, ...], epsilon: float, by_expected: bool, primals: Any, tangents: Any) -> Any:
    """Return the derivatives of the definitions, E[dx] and 2 E[(x - mean) dx], which do not depend on the shift."""
    x, expected = primals
    mean, variance = _moments(axes, epsilon, by_expected, x, expected)
    dx, deviation = tangents[0].astype(mean.dtype), x.astype(mean.dtype) - mean
    return (mean, variance), (dx.mean(axes, keepdims=True), 2 * (deviation * dx).mean(axes, keepdims=True))


def _shifted_moments(wide: Array, axes: tuple[int, ...], shift: Array) -> tuple[Array, Array]:
    difference = wide - shift
    mean = difference.mean(axes, keepdims=True)
    variance = jnp.square(difference).mean(axes, keepdims=True) - jnp.square(mean)
    return shift + mean, jnp.maximum(variance, 0)


def _middle(x: Array, axes: tuple[int, ...], dtype: Any) -> Array:
    """Return the mean over the batch, the first of the axes, at the middle of the other axes."""
    for axis in axes[1:]:
        x = jax.lax.slice_in_dim(x, x.shape[axis] // 2, x.shape[axis] // 2 + 1, axis=axis)
    return x.astype(dtype).mean(axes[0], keepdims=True)
