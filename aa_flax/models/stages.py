"""What residual networks share: stages of blocks, and the description of their features."""

from collections.abc import Callable
from typing import Any, NamedTuple

from flax import nnx
from jaxtyping import Array, Float


class FeatureInfo(NamedTuple):
    """Channels of a stage's features, and pixels of the image per place."""

    channels: int
    stride: int


class Stage(nnx.Module):
    """Blocks `block1` ... `blockN`, the first of which may change size and width.

    `block(in_features, features, strides=..., **options)` builds one.
    """

    def __init__(
        self,
        block: Callable[..., nnx.Module],
        blocks: int,
        in_features: int,
        features: int,
        *,
        strides: int,
        **options: Any,
    ) -> None:
        self.blocks = blocks
        for i in range(blocks):
            first = i == 0
            built = block(in_features if first else features, features, strides=strides if first else 1, **options)
            setattr(self, f"block{i + 1}", built)

    def __call__(self, x: Float[Array, "b h w c"], *, train: bool, rngs: nnx.Rngs | None) -> Float[Array, "b hs ws f"]:
        for i in range(self.blocks):
            x = getattr(self, f"block{i + 1}")(x, train=train, rngs=rngs)
        return x
