"""Gather-excite (Hu et al., 2018b)."""

import math
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from aa_flax.layers.aa_settings import is_shape
from aa_flax.layers.initializers import he_normal_fan_out
from aa_flax.layers.mode import evaluates
from aa_flax.layers.norm import batch_norm
from aa_flax.layers.squeeze_excite import SqueezeExcite
from aa_flax.ops import average_pool
from aa_flax.ops.resampling import resize_nearest

Variant = Literal["theta_minus", "theta", "theta_plus"]


class GatherExcite(nnx.Module):
    """`x * sigmoid(resize(gather(x)))`: each location of each channel scaled by a gate gathered from its neighbourhood.

    Variants of the paper:
        theta_minus: gather is the mean over the extent; no parameters. The form of Bello et al. (2019), Table 1.
        theta: gather is a depthwise convolution and batch norm. Over the whole map the kernel is as large as the map,
            so only maps of `map_shape` serve; over extent e it is log2(e) convolutions 3×3 of stride 2, ReLU between.
        theta_plus: theta, ReLU, then the two layers of squeeze-and-excitation at each gathered location.

    Args:
        features: channels c of the map.
        variant: see above.
        extent: 0 for the whole map, or 2, 4, 8: the gathered map is smaller by this factor, and is resized to the map
            by nearest neighbours.
        map_shape: (h, w) of the map; required by theta and theta_plus with extent 0.
        reduction: of the two layers of theta_plus, as in `SqueezeExcite`.
    """

    def __init__(
        self,
        features: int,
        *,
        variant: Variant = "theta_minus",
        extent: int = 0,
        map_shape: tuple[int, int] | None = None,
        reduction: int = 16,
        dtype: Any = jnp.float32,
        param_dtype: Any = jnp.float32,
        rngs: nnx.Rngs,
    ) -> None:
        if variant not in get_args(Variant):
            raise ValueError(f"variant must be one of {get_args(Variant)}, got {variant!r}")
        if extent not in (0, 2, 4, 8):
            raise ValueError(f"extent must be 0 (the whole map), 2, 4 or 8, got {extent}")
        learned = variant != "theta_minus"
        if learned and extent == 0 and not is_shape(map_shape):
            raise ValueError(
                f"map_shape must be (h, w), both at least 1, for variant {variant!r} with extent 0, got {map_shape!r}"
            )
        options: dict[str, Any] = dict(dtype=dtype, param_dtype=param_dtype, rngs=rngs)
        depthwise: dict[str, Any] = dict(
            feature_group_count=features, use_bias=False, kernel_init=he_normal_fan_out, **options
        )
        self.extent = extent
        self.map_shape = (int(map_shape[0]), int(map_shape[1])) if map_shape and learned and extent == 0 else None
        self.gathers = 0 if not learned else (round(math.log2(extent)) if extent else 1)
        for i in range(self.gathers):
            if extent:
                conv = nnx.Conv(features, features, (3, 3), strides=2, padding=((1, 1), (1, 1)), **depthwise)
            else:
                assert self.map_shape is not None
                conv = nnx.Conv(features, features, self.map_shape, padding="VALID", **depthwise)
            setattr(self, f"gather{i + 1}", conv)
            setattr(self, f"bn{i + 1}", batch_norm(features, **options))
        self.mlp = SqueezeExcite(features, reduction=reduction, **options) if variant == "theta_plus" else None

    def __call__(self, x: Float[Array, "b h w c"], *, train: bool | None = None) -> Float[Array, "b h w c"]:
        """Return the map with its locations scaled; raise a ValueError for a map that a global kernel does not fit."""
        _, h, w, _ = x.shape
        if self.map_shape is not None and (h, w) != self.map_shape:
            raise ValueError(f"this gather-excite has a kernel of {self.map_shape}, the size of its map; got {(h, w)}")
        gathered = self._gather(x, train)
        logits = gathered if self.mlp is None else self.mlp.logits(jax.nn.relu(gathered))
        if logits.shape[1:3] != (1, 1):
            logits = resize_nearest(logits, h, w)
        return x * jax.nn.sigmoid(logits).astype(x.dtype)

    def _gather(self, x: Array, train: bool | None) -> Array:
        if not self.gathers:
            if not self.extent:
                return x.mean((1, 2), keepdims=True)
            return average_pool(x, self.extent, window=2 * self.extent - 1)
        for i in range(self.gathers):
            x = x if i == 0 else jax.nn.relu(x)
            x = getattr(self, f"bn{i + 1}")(getattr(self, f"gather{i + 1}")(x), use_running_average=evaluates(train))
        return x
