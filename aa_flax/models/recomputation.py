"""Activations that the gradient computes again instead of keeping them."""

from typing import Any

import jax
from jaxtyping import Array, Float

from aa_flax.layers import AAConv2D
from aa_flax.layers.convolve import convolve
from aa_flax.layers.norm import BatchNorm
from aa_flax.ops.platform import target_platform


def convolve_activated(norm: Any, conv: Any, x: Float[Array, "b h w c"], *, train: bool) -> Float[Array, "b hs ws out"]:
    """`convolve(conv, relu(norm(x)))`; before attention on a TPU the gradient keeps only `x` and the norm's statistics.

    XLA makes the normalised input of a plain convolution while it reads it, but a kernel needs it in memory and relaid,
    and that copy would be kept too.
    """
    attends = isinstance(conv, AAConv2D) and conv.attends and not conv.takes_train
    if target_platform() != "tpu" or not attends or type(norm) is not BatchNorm or norm.groups > 1:
        return convolve(conv, jax.nn.relu(norm(x, use_running_average=not train)), train=train)

    @jax.checkpoint
    def run(x: Array, scale: Array, shift: Array) -> Array:
        by_channel = (None, None, None)
        normalized = x.astype(scale.dtype) * scale[by_channel] + shift[by_channel]
        return conv(jax.nn.relu(normalized.astype(x.dtype)))

    return run(x, *norm.scale_and_shift(x, not train))
