"""Calling a convolution that may have statistics of its own."""

from typing import Any

from jaxtyping import Array, Float


def convolve(conv: Any, x: Float[Array, "b h w c"], *, train: bool) -> Float[Array, "b hs ws f"]:
    """`conv(x)`; a layer that says `takes_train` hears of training."""
    return conv(x, train=train) if getattr(conv, "takes_train", False) else conv(x)
