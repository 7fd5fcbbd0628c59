"""UPerNet's head: pyramid pooling, a feature pyramid and its fusion (Xiao et al., 2018, "Unified Perceptual Parsing").

It is `UPerHead` of mmsegmentation, which differs from the paper's figure in that the pooled maps meet the backbone's
last one in a 3×3 convolution, and in that one map, the fusion of all levels, is what is classified.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from aa_flax.layers.conv_norm_relu import ConvNormReLU
from aa_flax.layers.mode import WithMode
from aa_flax.layers.norm import NormFactory, batch_norm
from aa_flax.ops import adaptive_average_pool, resize_bilinear


class PyramidPooling(WithMode):
    """Pyramid pooling (Zhao et al., 2017): a map, joined with its means over n × n bins for several n.

    Each mean map goes through a 1×1 convolution, norm and ReLU and is resized to the map bilinearly; a 3×3 convolution,
    norm and ReLU follow the concatenation, in which the map comes first. Sub-modules: `bin1`, `bin2` ... by n, `fuse`.

    Raises:
        ValueError: no bins, one twice, or fewer than 1.
    """

    def __init__(
        self,
        features: int,
        *,
        bins: Sequence[int] = (1, 2, 3, 6),
        width: int = 512,
        norm: NormFactory = batch_norm,
        dtype: Any = jnp.float32,
        param_dtype: Any = jnp.float32,
        rngs: nnx.Rngs,
    ) -> None:
        self.bins = tuple(bins)
        if not self.bins or min(self.bins) < 1 or len({*self.bins}) < len(self.bins):
            raise ValueError(f"pooling_bins must be different whole numbers of at least 1, got {self.bins}")
        options: dict[str, Any] = dict(norm=norm, dtype=dtype, param_dtype=param_dtype, rngs=rngs)
        for n in self.bins:
            setattr(self, f"bin{n}", ConvNormReLU(features, width, 1, **options))
        self.fuse = ConvNormReLU(features + len(self.bins) * width, width, **options)

    def __call__(self, x: Float[Array, "b h w c"], *, train: bool | None = None) -> Float[Array, "b h w f"]:
        """Return the map of `width` channels."""
        means = (getattr(self, f"bin{n}")(adaptive_average_pool(x, n), train=train) for n in self.bins)
        size = x.shape[1:3]
        return self.fuse(jnp.concatenate([x, *(resize_bilinear(y, *size) for y in means)], -1), train=train)


class UPerHead(WithMode):
    """One map of the size of the finest level, from maps of a backbone at several levels:

        M_c = pyramid_pooling(C_c)                     c the coarsest level
        M_l = lateral_l(C_l) + bilinear(M_{l+1})
        P_l = output_l(M_l), P_c = M_c
        fused = fuse(all P_l resized to the finest, joined, finest first)

    `lateral` is 1×1, `output` and `fuse` are 3×3, each without bias and with norm and ReLU.

    Sub-modules: `pyramid_pooling`, `lateral2` ..., `output2` ... by level, `fuse`.

    Args:
        channels: channels of the backbone's maps by level, finest first.
        width: channels of every map of the head.
        bins: of the pyramid pooling.
        norm: builds the norms.
    """

    def __init__(
        self,
        channels: Mapping[int, int],
        *,
        width: int = 512,
        bins: Sequence[int] = (1, 2, 3, 6),
        norm: NormFactory = batch_norm,
        dtype: Any = jnp.float32,
        param_dtype: Any = jnp.float32,
        rngs: nnx.Rngs,
    ) -> None:
        options: dict[str, Any] = dict(norm=norm, dtype=dtype, param_dtype=param_dtype, rngs=rngs)
        self.levels = tuple(channels)
        self.width = self.pyramid_width = width
        *finer, coarsest = self.levels
        self.pyramid_pooling = PyramidPooling(channels[coarsest], bins=bins, width=width, **options)
        for level in finer:
            setattr(self, f"lateral{level}", ConvNormReLU(channels[level], width, 1, **options))
            setattr(self, f"output{level}", ConvNormReLU(width, width, **options))
        self.fuse = ConvNormReLU(len(self.levels) * width, width, **options)

    def pyramid(self, maps: Mapping[int, Array], *, train: bool | None = None) -> dict[int, Array]:
        """Return the maps P_l by level, finest first, of the backbone's maps by level."""
        *finer, coarsest = self.levels
        top = self.pyramid_pooling(maps[coarsest], train=train)
        found = {coarsest: top}
        for level in reversed(finer):
            x = getattr(self, f"lateral{level}")(maps[level], train=train)
            top = x + resize_bilinear(top, *x.shape[1:3])
            found[level] = getattr(self, f"output{level}")(top, train=train)
        return {level: found[level] for level in self.levels}

    def __call__(self, pyramid: Mapping[int, Array], *, train: bool | None = None) -> Float[Array, "b h w f"]:
        """Return the fused map of the maps that `pyramid` gave, at the size of the finest."""
        return self.fuse.of_resized([pyramid[level] for level in self.levels], train=train)
