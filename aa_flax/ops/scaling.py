"""The scale of logits, applied so that logits of any size give the right weights.

`exp(scale * product - largest)` fails where logits are large: a compiler fuses multiplication and subtraction into one
instruction that rounds once, while `largest` was rounded before. The two differ by up to half a unit in the last place,
which is 128 for logits of 2**31, and exp(128) is infinite. So either queries are scaled before the product, where their
dtype loses nothing by it, or the largest product is subtracted first: `exp(scale * (product - largest))`. Neither costs
more, and the second rounds no query again.
"""

import jax
from jaxtyping import Array, Float


def scaled_softmax(logits: Float[Array, "..."], scale: float, axis: int | tuple[int, ...]) -> Float[Array, "..."]:
    """Return `softmax(scale * logits)` over the axes, for logits of any size and a scale of either sign."""
    if scale == 1:
        return jax.nn.softmax(logits, axis)
    logits, scale = with_positive_scale(logits, scale)
    largest = jax.lax.stop_gradient(logits.max(axis, keepdims=True))  # any constant cancels
    return jax.nn.softmax(scale * (logits - largest), axis)


def with_positive_scale(factor: Float[Array, "..."], scale: float) -> tuple[Float[Array, "..."], float]:
    """Return a factor of the logits and their scale, both with the opposite sign if the scale is below 0.

    With a scale of at least 0, the largest product is that of the largest logit.
    """
    return (-factor, -scale) if scale < 0 else (factor, scale)
