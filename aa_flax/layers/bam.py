"""Bottleneck attention module (Park et al., 2018)."""

from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from aa_flax.layers.initializers import he_normal_fan_out, lecun_normal
from aa_flax.layers.mode import evaluates
from aa_flax.layers.norm import batch_norm

Combine = Literal["add", "mul"]


class BAM(nnx.Module):
    """`x * (1 + sigmoid(Mc(x) + Ms(x)))` with a channel map Mc and a spatial map Ms.

    Mc: mean, W1 to c // reduction, batch norm, ReLU, W2. Ms: 1×1 to c // reduction, two 3×3 of dilation 4, each with
    batch norm and ReLU, 1×1 to one channel. All layers have biases, as in the authors' code.

    Args:
        features: channels c of the map.
        reduction: 16 in the paper.
        combine: "add" is the paper's equation; "mul" multiplies the two maps, as the authors' code does.
        dilation: of the 3×3 convolutions.
    """

    def __init__(
        self,
        features: int,
        *,
        reduction: int = 16,
        combine: Combine = "add",
        dilation: int = 4,
        dtype: Any = jnp.float32,
        param_dtype: Any = jnp.float32,
        rngs: nnx.Rngs,
    ) -> None:
        if combine not in get_args(Combine):
            raise ValueError(f"combine must be one of {get_args(Combine)}, got {combine!r}")
        if reduction < 1:
            raise ValueError(f"reduction must be at least 1, got {reduction}")
        hidden = max(1, features // reduction)
        options: dict[str, Any] = dict(dtype=dtype, param_dtype=param_dtype, rngs=rngs)
        self.combine = combine
        self.squeeze = nnx.Linear(features, hidden, kernel_init=lecun_normal, **options)
        self.squeeze_bn = batch_norm(hidden, **options)
        self.excite = nnx.Linear(hidden, features, kernel_init=lecun_normal, **options)
        convolution: dict[str, Any] = dict(kernel_init=he_normal_fan_out, **options)
        dilated: dict[str, Any] = dict(kernel_size=(3, 3), kernel_dilation=dilation, padding=dilation, **convolution)
        self.reduce = nnx.Conv(features, hidden, (1, 1), **convolution)
        self.reduce_bn = batch_norm(hidden, **options)
        self.conv1 = nnx.Conv(hidden, hidden, **dilated)
        self.bn1 = batch_norm(hidden, **options)
        self.conv2 = nnx.Conv(hidden, hidden, **dilated)
        self.bn2 = batch_norm(hidden, **options)
        self.spatial = nnx.Conv(hidden, 1, (1, 1), **convolution)

    def __call__(self, x: Float[Array, "b h w c"], *, train: bool | None = None) -> Float[Array, "b h w c"]:
        """Return the map with its channels and locations scaled."""

        def activated(norm: nnx.BatchNorm, y: Array) -> Array:
            return jax.nn.relu(norm(y, use_running_average=evaluates(train)))

        channel = self.excite(activated(self.squeeze_bn, self.squeeze(x.mean((1, 2)))))[:, None, None, :]
        spatial = activated(self.reduce_bn, self.reduce(x))
        spatial = activated(self.bn1, self.conv1(spatial))
        spatial = self.spatial(activated(self.bn2, self.conv2(spatial)))
        logits = channel + spatial if self.combine == "add" else channel * spatial
        return x * (1 + jax.nn.sigmoid(logits)).astype(x.dtype)
