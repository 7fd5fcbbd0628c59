"""The head of Semantic FPN (Kirillov et al., 2019, "Panoptic Feature Pyramid Networks", section 3.1)."""

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from aa_flax.layers.conv_norm_relu import ConvNormReLU
from aa_flax.layers.fpn import FPN
from aa_flax.layers.mode import WithMode
from aa_flax.layers.norm import NormFactory, batch_norm
from aa_flax.ops import resize_bilinear


class FPNHead(WithMode):
    """A feature pyramid, and the sum of its levels at the size of the finest.

    Each coarser level goes through a 3×3 convolution, norm and ReLU and is doubled in size bilinearly, as often as it
    takes to reach the finest level, which has one convolution. It is `FPN` and `FPNHead` of mmsegmentation, which has
    batch norm where the paper has group norm; where a side is odd, the doubled map has the size of the next finer level
    at once.

    Sub-modules: `fpn`, and `level2_conv1`, `level3_conv1`, `level4_conv1`, `level4_conv2` ...

    Args:
        channels: channels of the backbone's maps by level, finest first.
        fpn_width: channels of the pyramid's maps.
        width: channels of the convolutions and of the sum.
        norm: builds the norms; the pyramid has none.
    """

    def __init__(
        self,
        channels: Mapping[int, int],
        *,
        fpn_width: int = 256,
        width: int = 128,
        norm: NormFactory = batch_norm,
        dtype: Any = jnp.float32,
        param_dtype: Any = jnp.float32,
        rngs: nnx.Rngs,
    ) -> None:
        arrays: dict[str, Any] = dict(dtype=dtype, param_dtype=param_dtype, rngs=rngs)
        self.levels = tuple(channels)
        self.width, self.pyramid_width = width, fpn_width
        self.fpn = FPN(channels, width=fpn_width, max_level=self.levels[-1], **arrays)
        for level in self.levels:
            for i in range(max(1, level - self.levels[0])):
                conv = ConvNormReLU(fpn_width if i == 0 else width, width, norm=norm, **arrays)
                setattr(self, f"level{level}_conv{i + 1}", conv)

    def pyramid(self, maps: Mapping[int, Array], *, train: bool | None = None) -> dict[int, Array]:
        """Return the pyramid's maps by level, finest first, of the backbone's maps by level."""
        return self.fpn(maps, train=train)

    def __call__(self, pyramid: Mapping[int, Array], *, train: bool | None = None) -> Float[Array, "b h w f"]:
        """Return the sum of the maps that `pyramid` gave, at the size of the finest."""
        first = self.levels[0]
        total = getattr(self, f"level{first}_conv1")(pyramid[first], train=train)
        for level in self.levels[1:]:
            x = pyramid[level]
            for i in range(level - first):
                x = getattr(self, f"level{level}_conv{i + 1}")(x, train=train)
                x = resize_bilinear(x, *pyramid[level - i - 1].shape[1:3])
            total = total + x
        return total
