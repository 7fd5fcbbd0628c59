"""Parts that networks share: stages of blocks, the description of their features, and checks of arguments."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
from flax import nnx
from jax.export import is_symbolic_dim
from jaxtyping import Array, Bool, Float

from aa_flax.layers.convolve import valid_after
from aa_flax.layers.drop_path import dropout_stream
from aa_flax.ops.axes import AXES, letters


class FeatureInfo(NamedTuple):
    """Channels of a stage's map, and its stride: pixels of the image for each location, along each side."""

    channels: int
    stride: int


def require_images(images: Array, in_channels: int, dimensions: int = 2) -> None:
    """Check that an array is a batch [b, h, w, in_channels] of normalised images, or of signals or volumes.

    Raises:
        TypeError: whole numbers, as pixels are stored.
        ValueError: another shape, a dimension that is 0, or a height or width that is a symbol of `jax.export`.
    """
    if not jnp.issubdtype(images.dtype, jnp.floating):
        raise TypeError(
            f"images must be normalised floating-point numbers, got {images.dtype}; pixels from 0 to 255 are "
            "normalised as (images / 255 - mean) / std, mean and std of each channel being those of the training data"
        )
    if images.ndim != dimensions + 2 or images.shape[-1] != in_channels or 0 in images.shape:
        raise ValueError(
            f"images must have shape [b, {letters(dimensions)}, in_channels={in_channels}], none of them 0, got "
            f"{images.shape}"
        )
    if any(is_symbolic_dim(side) for side in images.shape[1:-1]):
        raise ValueError(
            f"images may have a symbolic batch, but their {' and '.join(AXES[dimensions])} must be numbers, got "
            f"{images.shape}: export one program for each size"
        )


def require_valid(valid: Array | None, images: Array) -> None:
    """Raise an error unless `valid` is None, or bool and of the shape of the images without their channels."""
    if valid is None:
        return
    if valid.dtype != jnp.bool_:
        raise TypeError(f"valid must be bool, got {valid.dtype}")
    if valid.shape != images.shape[:-1]:
        raise ValueError(f"valid must have shape {images.shape[:-1]} like images, got {valid.shape}")


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
        self,
        x: Float[Array, "b *space c"],
        *,
        train: bool | None = None,
        rngs: nnx.Rngs | None = None,
        valid: Bool[Array, "b *space"] | None = None,
    ) -> Float[Array, "b *slid f"]:
        """Return the map after all blocks; with train=None each block is in its own mode.

        `valid`, for blocks that take it, says which locations are there and no padding.
        """
        for i in range(self.blocks):
            block = getattr(self, f"block{i + 1}")
            if valid is None:
                x = block(x, train=train, rngs=rngs)
            else:
                x, valid = block(x, train=train, rngs=rngs, valid=valid), valid_after(valid, block.strides)
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
