"""What residual networks share: stages of blocks, and the description of their features."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from flax import nnx
from jaxtyping import Array, Float


class FeatureInfo(NamedTuple):
    """Channels of a stage's features, and pixels of the image per place."""

    channels: int
    stride: int


def require_images(images: Array, in_channels: int) -> None:
    """ValueError unless `images` is a batch [b, h, w, in_channels] of at least one image and one pixel."""
    if images.ndim != 4 or images.shape[-1] != in_channels or 0 in images.shape:
        raise ValueError(
            f"images must have shape [b, h, w, in_channels={in_channels}], none of them 0, got {images.shape}"
        )


class Stage(nnx.Module):
    """Blocks in a row, named `block1` ... `blockN`."""

    def __init__(self, blocks: Sequence[nnx.Module]) -> None:
        self.blocks = len(blocks)
        for i, block in enumerate(blocks):
            setattr(self, f"block{i + 1}", block)

    def __call__(self, x: Float[Array, "b h w c"], *, train: bool, rngs: nnx.Rngs | None) -> Float[Array, "b hs ws f"]:
        for i in range(self.blocks):
            x = getattr(self, f"block{i + 1}")(x, train=train, rngs=rngs)
        return x


def residual_stage(
    block: Callable[..., nnx.Module], blocks: int, in_features: int, features: int, *, strides: int, **options: Any
) -> Stage:
    """`blocks` equal blocks, the first of which takes `in_features` and carries the strides."""
    first = block(in_features, features, strides=strides, **options)
    return Stage([first, *(block(features, features, strides=1, **options) for _ in range(blocks - 1))])
