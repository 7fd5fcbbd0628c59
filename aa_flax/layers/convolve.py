"""Calls of a convolution, which may have statistics of its own or leave room for channels after its own."""

from typing import Any

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float

from aa_flax.ops.concatenation import convolution_with_room


def convolve(
    conv: Any,
    x: Float[Array, "b *space c"],
    *,
    train: bool | None,
    room: int = 0,
    valid: Bool[Array, "b *space"] | None = None,
) -> Float[Array, "b *slid _"]:
    """Return `conv(x)`; a layer that has `takes_train` is also given `train`, where None is its own mode.

    With `room`, that many channels of zeros follow those of the convolution; for a `conv` that `leaves_room`. With
    `valid`, other locations are zeros to the convolution, as its own padding is, and a layer that has `takes_valid` is
    given it.
    """
    if valid is not None:
        x = jnp.where(valid[..., None], x, jnp.zeros((), x.dtype))
    if room:
        bias = None if conv.bias is None else conv.bias[...].astype(conv.dtype)
        arrays = x.astype(conv.dtype), conv.kernel[...].astype(conv.dtype), bias
        strides = (conv.strides,) * (x.ndim - 2) if isinstance(conv.strides, int) else conv.strides
        return convolution_with_room(conv.conv_general_dilated, *arrays, strides, conv.padding, room)
    options: dict[str, Any] = {"train": train} if getattr(conv, "takes_train", False) else {}
    if valid is not None and getattr(conv, "takes_valid", False):
        options["valid"] = valid
    return conv(x, **options)


def valid_after(valid: Bool[Array, "b *space"], strides: int) -> Bool[Array, "b *out_space"]:
    """Return which locations are valid after a convolution with strides: those whose window lies around a valid one."""
    return valid[(slice(None), *(slice(None, None, strides),) * (valid.ndim - 1))]


def leaves_room(conv: Any) -> bool:
    """Return whether `convolve` can leave room after a layer's channels: for a plain convolution, padded by pairs."""
    plain = type(conv) is nnx.Conv and conv.feature_group_count == 1 and conv.mask is None
    return plain and conv.kernel_dilation == conv.input_dilation == 1 and isinstance(conv.padding, tuple)
