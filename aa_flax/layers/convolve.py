"""Calling a convolution: one that may have statistics of its own, and one that leaves room beside its channels."""

from typing import Any

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float


def convolve(conv: Any, x: Float[Array, "b h w c"], *, train: bool | None) -> Float[Array, "b hs ws f"]:
    """`conv(x)`; a layer that says `takes_train` is told of training; None is its own mode."""
    return conv(x, train=train) if getattr(conv, "takes_train", False) else conv(x)


def convolve_wider(conv: nnx.Conv, x: Float[Array, "b h w c"], more: int) -> Float[Array, "b hs ws f"]:
    """`conv(x)` with so many channels of zeros behind its own, to which others are to be added.

    The tiles of a TPU, 128 channels wide, have room for them. A concatenation would read and write both parts once
    more.
    """
    wider = lambda array: jnp.pad(array.astype(conv.dtype), (*((0, 0),) * (array.ndim - 1), (0, more)))  # noqa: E731
    strides = (conv.strides,) * 2 if isinstance(conv.strides, int) else conv.strides
    numbers = ("NHWC", "HWIO", "NHWC")
    x, kernel = x.astype(conv.dtype), wider(conv.kernel[...])
    y = conv.conv_general_dilated(x, kernel, strides, conv.padding, dimension_numbers=numbers)
    return y if conv.bias is None else y + wider(conv.bias[...][None, None, None])
