"""Calls of a convolution, which may have statistics of its own or leave room for channels after its own."""

from typing import Any

from flax import nnx
from jaxtyping import Array, Float

from aa_flax.ops.concatenation import convolution_with_room


def convolve(conv: Any, x: Float[Array, "b h w c"], *, train: bool | None, room: int = 0) -> Float[Array, "b hs ws _"]:
    """Return `conv(x)`; a layer that has `takes_train` is also given `train`, where None is its own mode.

    With `room`, that many channels of zeros follow those of the convolution; for a `conv` that `leaves_room`.
    """
    if room:
        bias = None if conv.bias is None else conv.bias[...].astype(conv.dtype)
        arrays = x.astype(conv.dtype), conv.kernel[...].astype(conv.dtype), bias
        strides = (conv.strides,) * 2 if isinstance(conv.strides, int) else conv.strides
        return convolution_with_room(conv.conv_general_dilated, *arrays, strides, conv.padding, room)
    return conv(x, train=train) if getattr(conv, "takes_train", False) else conv(x)


def leaves_room(conv: Any) -> bool:
    """Return whether `convolve` can leave room after a layer's channels: for a plain convolution, padded by pairs."""
    plain = type(conv) is nnx.Conv and conv.feature_group_count == 1 and conv.mask is None
    return plain and conv.kernel_dilation == conv.input_dilation == 1 and isinstance(conv.padding, tuple)
