"""Batch normalisation, ReLU and convolution in sequence, of which an attention kernel computes the first two itself."""

from typing import Any

import jax
from jaxtyping import Array, Bool, Float

from aa_flax.layers import AAConv
from aa_flax.layers.convolve import convolve
from aa_flax.layers.mode import evaluates
from aa_flax.layers.norm import BatchNorm
from aa_flax.ops.normalized import normalized
from aa_flax.ops.platform import target_platform


def normed(
    norm: Any, x: Float[Array, "b *space c"], *, train: bool | None, valid: Bool[Array, "b *space"] | None
) -> Float[Array, "b *space c"]:
    """Return `norm(x)`, whose statistics in training are those of the valid locations."""
    options = {} if valid is None else {"mask": valid[..., None]}
    return norm(x, use_running_average=evaluates(train), **options)


def convolve_activated(
    norm: Any,
    conv: Any,
    x: Float[Array, "b *space c"],
    *,
    train: bool | None,
    recompute: bool,
    valid: Bool[Array, "b *space"] | None = None,
) -> Float[Array, "b *slid out"]:
    """Return `convolve(conv, relu(norm(x)))`; if `conv` attends on a TPU, the attention kernel normalises `x`.

    XLA computes the normalised input of a convolution while the convolution reads it. A kernel that did not normalise
    its own input would need the normalised map in memory in addition to `x`, in both passes.

    If attention sees a pooled input, the kernel cannot normalise it. `recompute` then says whether the backward pass
    normalises and pools again, which reads more, or keeps the results of the forward pass, which takes memory.

    With `valid`, other locations have no part in the statistics of the norm, nor in the convolution, see `convolve`.
    """
    if valid is not None:
        return convolve(conv, jax.nn.relu(normed(norm, x, train=train, valid=valid)), train=train, valid=valid)
    attends = isinstance(conv, AAConv) and (conv.attends if recompute else conv.attends_to_input)
    plain = not attends or conv.takes_train or type(norm) is not BatchNorm or norm.groups > 1
    if target_platform() != "tpu" or plain:
        return convolve(conv, jax.nn.relu(norm(x, use_running_average=evaluates(train))), train=train)
    scale_and_shift = norm.scale_and_shift(x, evaluates(train))
    if conv.attends_to_input:
        return conv(x, norm=scale_and_shift)
    return jax.checkpoint(lambda x, norm: conv(normalized(x, *norm)))(x, scale_and_shift)
