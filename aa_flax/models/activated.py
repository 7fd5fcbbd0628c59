"""Batch normalisation, activation and convolution, where attention computes the first two itself."""

from typing import Any

import jax
from jaxtyping import Array, Float

from aa_flax.layers import AAConv2D
from aa_flax.layers.convolve import convolve
from aa_flax.layers.mode import evaluates
from aa_flax.layers.norm import BatchNorm
from aa_flax.ops.normalized import normalized
from aa_flax.ops.platform import target_platform


def convolve_activated(
    norm: Any, conv: Any, x: Float[Array, "b h w c"], *, train: bool | None, recompute: bool
) -> Float[Array, "b hs ws out"]:
    """`convolve(conv, relu(norm(x)))`; before attention on a TPU its kernel normalises `x`.

    XLA makes the normalised input of a convolution while it reads it. A kernel that did not make its own would need it
    in memory beside `x`, in both passes. Where attention sees a pooled input, the kernel cannot: `recompute` says
    whether the gradient normalises and pools again, which is more to read, or keeps what it needs, which is memory.
    """
    attends = isinstance(conv, AAConv2D) and (conv.attends if recompute else conv.attends_to_input)
    plain = not attends or conv.takes_train or type(norm) is not BatchNorm or norm.groups > 1
    if target_platform() != "tpu" or plain:
        return convolve(conv, jax.nn.relu(norm(x, use_running_average=evaluates(train))), train=train)
    scale_and_shift = norm.scale_and_shift(x, evaluates(train))
    if conv.attends_to_input:
        return conv(x, norm=scale_and_shift)
    return jax.checkpoint(lambda x, norm: conv(normalized(x, *norm)))(x, scale_and_shift)
