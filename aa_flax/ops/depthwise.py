"""Depthwise convolution as a sum of shifted maps."""

import functools
import math
import operator
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from aa_flax.ops.platform import target_platform
from aa_flax.ops.windows import shifted
from aa_flax.precision import at_least_float32

_MOST_TAPS = 25
"""Each place of the kernel is an operation of its own to compile; the papers' networks have 3×3 and 5×5."""


def is_faster_by_shifts(inputs: Any, kernel: Any, groups: int) -> bool:
    """Return whether `depthwise_convolution` serves a convolution and takes less time than XLA's, which is on CPUs.

    There XLA computes grouped convolutions by plain loops, slower still inside a loop over layers.

    Args:
        inputs, kernel: arrays or shapes, as for `jax.lax.conv_general_dilated` with dimension numbers NHWC, HWIO.
        groups: its feature groups.
    """
    each_by_itself = groups == inputs.shape[-1] == kernel.shape[-1] > 1 and kernel.shape[-2] == 1
    return each_by_itself and math.prod(kernel.shape[:-2]) <= _MOST_TAPS and target_platform() == "cpu"


def depthwise_convolution(
    inputs: Float[Array, "b h w c"],
    kernel: Float[Array, "kh kw 1 c"],
    strides: Sequence[int],
    padding: Sequence[Sequence[int]] | str,
) -> Float[Array, "b hs ws c"]:
    """Return the convolution of each channel with its own kernel:

        y[r, s] = sum over i, j of x[r · stride + i, s · stride + j] · kernel[i, j],

    the sum in at least float32.

    Args:
        inputs: the map.
        kernel: one for each channel.
        strides: of height and width.
        padding: zeros before and after height and width, or "SAME" or "VALID".
    """
    if isinstance(padding, str):
        padding = jax.lax.padtype_to_pads(inputs.shape[1:-1], kernel.shape[:-2], strides, padding)
    return sum_of_shifted(inputs, kernel, tuple(strides), tuple((before, after) for before, after in padding))


@functools.partial(jax.jit, static_argnums=(2, 3))  # the name lets FLOP counts take what the definition needs
def sum_of_shifted(
    inputs: Array, kernel: Array, strides: tuple[int, ...], padding: tuple[tuple[int, int], ...]
) -> Array:
    """Return `depthwise_convolution`."""
    window, dtype = kernel.shape[:-2], inputs.dtype
    compute = at_least_float32(dtype, kernel.dtype)
    padded = jnp.pad(inputs.astype(compute), ((0, 0), *padding, (0, 0)))
    taps = kernel.astype(compute).reshape(-1, *(1,) * (inputs.ndim - 1), kernel.shape[-1])
    parts = (part * tap for part, tap in zip(shifted(padded, window, strides), taps, strict=True))
    return functools.reduce(operator.add, parts).astype(dtype)
