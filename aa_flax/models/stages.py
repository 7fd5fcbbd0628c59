"""What residual networks share: stages of blocks, and the description of their features."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from flax import nnx
from jaxtyping import Array, Float


class FeatureInfo(NamedTuple):
    """Channels of a stage's features, and pixels of the image per place."""

    channels: int
    stride: int


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
