"""Batch normalisation, activation and convolution, where attention computes the first two itself."""

from typing import Any

import jax
from jaxtyping import Array, Float

from aa_flax.layers import AAConv2D
from aa_flax.layers.convolve import convolve
from aa_flax.layers.norm import BatchNorm
from aa_flax.ops.platform import target_platform


def convolve_activated(norm: Any, conv: Any, x: Float[Array, "b h w c"], *, train: bool) -> Float[Array, "b hs ws out"]:
    """`convolve(conv, relu(norm(x)))`; before attention on a TPU its kernel normalises `x`.

    XLA makes the normalised input of a convolution while it reads it. A kernel that did not make its own would need it
    in memory beside `x`, in both passes.
    """
    attends = isinstance(conv, AAConv2D) and conv.attends_to_input and not conv.takes_train
    if target_platform() != "tpu" or not attends or type(norm) is not BatchNorm or norm.groups > 1:
        return convolve(conv, jax.nn.relu(norm(x, use_running_average=not train)), train=train)
    return conv(x, norm=norm.scale_and_shift(x, not train))
