"""The logistic function of scores that may be very small."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from aa_flax.ops.platform import target_platform


def sigmoid(logits: Float[Array, "*b"]) -> Float[Array, "*b"]:
    """Return 1 / (1 + exp(-logits)), to the last digits of small ones too.

    Runtimes of ONNX approximate their own sigmoid to a part of 1, not of the result; their exponential is exact.
    """
    return 1 / (1 + jnp.exp(-logits)) if target_platform() == "onnx" else jax.nn.sigmoid(logits)
