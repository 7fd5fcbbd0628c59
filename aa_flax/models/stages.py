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


def require_rngs(train: bool, rngs: nnx.Rngs | None, *, dropout: float = 0.0, drop_path: float = 0.0) -> None:
    """ValueError where training draws at random and there is nothing to draw from, before statistics change."""
    for name, rate in (("dropout", dropout), ("drop path", drop_path)):
        if train and rate and rngs is None:
            raise ValueError(f"train=True with {name} needs rngs, for example rngs=nnx.Rngs(0)")


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
    block: Callable[..., nnx.Module],
    drop_path_rates: Sequence[float],
    in_features: int,
    features: int,
    *,
    strides: int,
    **options: Any,
) -> Stage:
    """Blocks that are equal but for their drop path; the first takes `in_features` and carries the strides."""
    first, *others = drop_path_rates
    head = block(in_features, features, strides=strides, drop_path_rate=first, **options)
    return Stage([head, *(block(features, features, strides=1, drop_path_rate=rate, **options) for rate in others)])
