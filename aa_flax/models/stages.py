"""Parts that networks share: stages of blocks, the description of their features, and checks of arguments."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
from flax import nnx
from jax.export import is_symbolic_dim
from jaxtyping import Array, Float

from aa_flax.layers.drop_path import dropout_stream


class FeatureInfo(NamedTuple):
    """Channels of a stage's map, and its stride: pixels of the image for each location, along each side."""

    channels: int
    stride: int


def require_images(images: Array, in_channels: int) -> None:
    """Check that an array is a batch [b, h, w, in_channels] of normalised images.

    Raises:
        TypeError: whole numbers, as pixels are stored.
        ValueError: another shape, a dimension that is 0, or a height or width that is a symbol of `jax.export`.
    """
    if not jnp.issubdtype(images.dtype, jnp.floating):
        raise TypeError(
            f"images must be normalised floating-point numbers, got {images.dtype}; pixels from 0 to 255 are "
            "normalised as (images / 255 - mean) / std, mean and std of each channel being those of the training data"
        )
    if images.ndim != 4 or images.shape[-1] != in_channels or 0 in images.shape:
        raise ValueError(
            f"images must have shape [b, h, w, in_channels={in_channels}], none of them 0, got {images.shape}"
        )
    if any(is_symbolic_dim(side) for side in images.shape[1:3]):
        raise ValueError(
            f"images may have a symbolic batch, but their height and width must be numbers, got {images.shape}: export "
            "one program for each size"
        )


def require_rngs(train: bool, rngs: nnx.Rngs | None, *, dropout: float = 0.0, drop_path: float = 0.0) -> None:
    """Raise the error of `dropout_stream`, before statistics change, if training draws at random and cannot."""
    for name, rate in (("dropout", dropout), ("drop path", drop_path)):
        if train and rate:
            dropout_stream(rngs, name)


class Stage(nnx.Module):
    """Blocks that follow each other, named `block1` ... `blockN`."""

    def __init__(self, blocks: Sequence[nnx.Module]) -> None:
        self.blocks = len(blocks)
        for i, block in enumerate(blocks):
            setattr(self, f"block{i + 1}", block)

    def __call__(
        self, x: Float[Array, "b h w c"], *, train: bool | None = None, rngs: nnx.Rngs | None = None
    ) -> Float[Array, "b hs ws f"]:
        """Return the map after all blocks; with train=None each block is in its own mode."""
        for i in range(self.blocks):
            x = getattr(self, f"block{i + 1}")(x, train=train, rngs=rngs)
        return x


def require_sizes(num_classes: int, in_channels: int) -> None:
    """Raise a ValueError for fewer than 0 classes, where 0 is a network without classifier, or fewer than 1 channel."""
    if num_classes < 0 or in_channels < 1:
        raise ValueError(
            "num_classes must be at least 0, which is no classifier, and in_channels at least 1, "
            f"got {num_classes} and {in_channels}"
        )


def residual_stage(
    block: Callable[..., nnx.Module],
    drop_path_rates: Sequence[float],
    in_features: int,
    features: int,
    *,
    strides: int,
    **options: Any,
) -> Stage:
    """Build a stage of blocks that differ in drop path only; but the first takes `in_features` and has the strides."""
    first, *others = drop_path_rates
    head = block(in_features, features, strides=strides, drop_path_rate=first, **options)
    return Stage([head, *(block(features, features, strides=1, drop_path_rate=rate, **options) for rate in others)])
