"""Maps at several strides from a plain network, one whose maps all have stride 16 (El-Nouby et al., 2021, "XCiT")."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from aa_flax.layers.mode import WithMode, evaluates
from aa_flax.layers.norm import LayerNorm, batch_norm
from aa_flax.layers.transposed_conv import TransposedConv2x2

PYRAMID_STRIDES = (4, 8, 16, 32)
"""The strides of the maps, which are the levels 2 to 5."""
Norm = Literal["batch", "layer"]


@dataclass(frozen=True, kw_only=True)
class PyramidOptions:
    """Options of the pyramid that a plain backbone makes for networks that need maps at several strides.

    The papers about PatchConvNet do not say what theirs is; XCiT's, by the same authors, is the default.
    """

    pyramid_taps: tuple[int, ...] | None = None  # blocks whose maps become those of strides 4, 8, 16 and 32, from 0
    pyramid_norm: Norm = "batch"  # between the two transposed convolutions to stride 4
    pyramid_tap_norm: bool = False  # a layer norm of each tapped map first; XCiT's has none

    def __post_init__(self) -> None:
        if self.pyramid_norm not in get_args(Norm):
            raise ValueError(f"pyramid_norm must be one of {get_args(Norm)}, got {self.pyramid_norm!r}")

    def taps(self, depth: int) -> tuple[int, ...]:
        """Return the four blocks, of a network of `depth` blocks; by default the last of each quarter.

        XCiT taps 3, 5, 7 and 11 of 12; for deeper networks nothing is published. A block may be tapped more than once.

        Raises:
            ValueError: other than four numbers of blocks in their order.
        """
        if self.pyramid_taps is None:
            return tuple(-(-(i + 1) * depth // 4) - 1 for i in range(4))
        taps = self.pyramid_taps
        if len(taps) != 4 or list(taps) != sorted(taps) or not 0 <= taps[0] <= taps[-1] < depth:
            raise ValueError(
                f"pyramid_taps must be four numbers of blocks in their order, from 0 to {depth - 1}, got {taps}"
            )
        return taps


class PlainPyramid(WithMode):
    """Maps at strides 4, 8, 16 and 32, of one width, from four maps of stride 16 and that width:

        level 2: transposed 2×2, norm, GELU, transposed 2×2        level 4: as it is
        level 3: transposed 2×2                                    level 5: 2×2 max pooling

    The transposed convolutions double the sides. An odd side is pooled as if it had one location more, so that level 5
    has ceil(side / 32) locations.

    Sub-modules: `level2_up1`, `level2_norm`, `level2_up2`, `level3_up1`; with `tap_norm` also `tap_norm2` ... by level.

    Args:
        features: channels.
        norm: "batch" or "layer".
        tap_norm: whether each map goes through a layer norm first.
    """

    def __init__(
        self,
        features: int,
        *,
        norm: Norm = "batch",
        tap_norm: bool = False,
        dtype: Any = jnp.float32,
        param_dtype: Any = jnp.float32,
        rngs: nnx.Rngs,
    ) -> None:
        arrays: dict[str, Any] = dict(dtype=dtype, param_dtype=param_dtype, rngs=rngs)
        self.levels: tuple[int, ...] = (2, 3, 4, 5)
        self.tap_norm = tap_norm
        if tap_norm:
            for level in self.levels:
                setattr(self, f"tap_norm{level}", LayerNorm(features, epsilon=1e-6, **arrays))
        self.level2_up1 = TransposedConv2x2(features, features, **arrays)
        between: Any = batch_norm if norm == "batch" else _layer_norm
        self.level2_norm = between(features, **arrays)
        self.level2_up2 = TransposedConv2x2(features, features, **arrays)
        self.level3_up1 = TransposedConv2x2(features, features, **arrays)

    def keep(self, levels: Sequence[int]) -> None:
        """Remove the parameters of all levels but these."""
        self.levels = tuple(level for level in self.levels if level in levels)
        for name in [*vars(self)]:
            if any(name.startswith((f"level{i}_", f"tap_norm{i}")) for i in {2, 3, 4, 5} - {*levels}):
                setattr(self, name, None)

    def __call__(
        self, taps: Mapping[int, Float[Array, "b _h _w c"]], *, train: bool | None = None
    ) -> dict[int, Float[Array, "b _hs _ws c"]]:
        """Return the maps by level, finest first, of a map of stride 16 for each level."""
        found = {}
        for level in self.levels:
            x = getattr(self, f"tap_norm{level}")(taps[level]) if self.tap_norm else taps[level]
            if level == 2:
                mode = {"use_running_average": evaluates(train)} if isinstance(self.level2_norm, nnx.BatchNorm) else {}
                x = self.level2_norm(self.level2_up1(x), **mode)
                x = self.level2_up2(jax.nn.gelu(x, approximate=False))
            elif level == 3:
                x = self.level3_up1(x)
            elif level == 5:
                x = _halved(x)
            found[level] = x
        return found


def _layer_norm(features: int, **arrays: Any) -> LayerNorm:
    return LayerNorm(features, epsilon=1e-6, **arrays)


def _halved(x: Float[Array, "b h w c"]) -> Float[Array, "b hs ws c"]:
    """Return the largest of each 2×2 locations; what lies outside the map counts for nothing."""
    b, h, w, c = x.shape
    x = jnp.pad(x, ((0, 0), (0, h % 2), (0, w % 2), (0, 0)), constant_values=-jnp.inf)
    # One axis after the other, because meshes that check shardings reshape no more at once.
    x = x.reshape(b, (h + 1) // 2, 2, w + w % 2, c).max(2)
    return x.reshape(b, (h + 1) // 2, (w + 1) // 2, 2, c).max(3)
