"""Stochastic depth (Huang et al., 2016, "Deep Networks with Stochastic Depth"), also known as drop path."""

from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

DropPathRule = Literal["linear", "constant"]


def drop_path(
    branch: Float[Array, "b ..."], rate: float, *, train: bool, rngs: nnx.Rngs | None
) -> Float[Array, "b ..."]:
    """Drop examples of a residual branch with probability `rate`, before the branch is added to its shortcut.

    In training, examples that survive are scaled by 1 / (1 - rate), so that the mean is the branch itself, and the
    others are zero; otherwise the branch is returned as it is. The paper drops a block for the whole batch and scales
    it in evaluation; EfficientNet, timm and DeiT drop single examples.

    Every call draws from the stream "dropout", which advances with each draw, so that no two blocks share a mask.

    Raises:
        ValueError: train=True with a rate above 0 and no `rngs`.
        TypeError: `rngs` is another object, or has no stream "dropout".
    """
    if not train or not rate:
        return branch
    return surviving(dropout_stream(rngs, "drop path")(), branch, rate)


def dropout_stream(rngs: nnx.Rngs | None, reason: str) -> Any:
    """Return the stream "dropout" of `rngs`, which gives a new random key at each call.

    Args:
        rngs: the random number generators of a call in training.
        reason: what draws from the stream, for the error message.

    Raises:
        ValueError: `rngs` is None.
        TypeError: `rngs` is another object, or has no stream "dropout" and no default.
    """
    if rngs is None:
        raise ValueError(f"train=True with {reason} needs rngs, for example rngs=nnx.Rngs(0)")
    expected = f"train=True with {reason} needs rngs with a stream 'dropout', for example nnx.Rngs(dropout=0)"
    if not isinstance(rngs, nnx.Rngs):
        raise TypeError(f"{expected}, got an object of type {type(rngs).__name__}")
    try:
        return rngs.dropout
    except (AttributeError, KeyError):  # which of them depends on Flax's version
        raise TypeError(f"{expected}; those given have {', '.join(rngs) or 'none'}") from None


def surviving(key: Array, branch: Float[Array, "b ..."], rate: float | Float[Array, ""]) -> Float[Array, "b ..."]:
    """Return `drop_path` in training, as a function of a random key; the rate may be traced."""
    keep = 1 - rate
    mask = jax.random.bernoulli(key, keep, (branch.shape[0], *[1] * (branch.ndim - 1)))
    return jnp.where(mask, branch / jnp.asarray(keep, branch.dtype), jnp.zeros((), branch.dtype))


def drop_path_rates(rate: float, blocks: int, rule: DropPathRule = "linear") -> tuple[float, ...]:
    """Return the rate of each of a network's residual blocks, first to last.

    linear:    rate · l / blocks for l = 1 ... blocks (the paper's equation 4)        constant:  rate

    In timm and DeiT the linear rule starts at 0: rate · (l - 1) / (blocks - 1).

    Raises:
        ValueError: a rate outside [0, 1), or an unknown rule.
    """
    if not 0 <= rate < 1:
        raise ValueError(f"drop_path_rate must lie in [0, 1), got {rate}")
    if rule not in get_args(DropPathRule):
        raise ValueError(f"drop_path_rule must be one of {get_args(DropPathRule)}, got {rule!r}")
    return tuple(rate * (i + 1) / blocks if rule == "linear" else rate for i in range(blocks))
