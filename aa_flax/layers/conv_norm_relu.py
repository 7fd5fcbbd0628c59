"""A convolution without bias, a norm and ReLU, of which the heads of segmentation networks are made."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from aa_flax.layers.initializers import he_normal_fan_out
from aa_flax.layers.mode import WithMode, evaluates
from aa_flax.layers.norm import NormFactory, batch_norm
from aa_flax.ops import convolution, resized_convolution


class ConvNormReLU(WithMode):
    """relu(norm(conv(x))): stride 1, zeros around the map so that it keeps its size, kernels drawn as He et al. do.

    Sub-modules: `conv`, `norm`.

    Args:
        in_features, out_features: channels of the map before and after.
        kernel_size: odd.
        norm: builds the norm.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        kernel_size: int = 3,
        *,
        norm: NormFactory = batch_norm,
        dtype: Any = jnp.float32,
        param_dtype: Any = jnp.float32,
        rngs: nnx.Rngs,
    ) -> None:
        around = (kernel_size // 2,) * 2
        self.conv = nnx.Conv(
            in_features,
            out_features,
            (kernel_size, kernel_size),
            padding=(around, around),
            use_bias=False,
            kernel_init=he_normal_fan_out,
            conv_general_dilated=convolution,
            dtype=dtype,
            param_dtype=param_dtype,
            rngs=rngs,
        )
        self.norm = norm(out_features, dtype=dtype, param_dtype=param_dtype, rngs=rngs)

    def __call__(self, x: Float[Array, "b h w c"], *, train: bool | None = None) -> Float[Array, "b h w f"]:
        """Return the map; in training, batch statistics are updated in place."""
        return jax.nn.relu(self.norm(self.conv(x), use_running_average=evaluates(train)))

    def of_resized(
        self, maps: Sequence[Float[Array, "b _ _ _"]], *, train: bool | None = None
    ) -> Float[Array, "b h w f"]:
        """Return the same of several maps, which are resized to the first one and joined: `resized_convolution`."""
        kernel = self.conv.kernel[...].astype(self.conv.dtype)
        y = resized_convolution([x.astype(kernel.dtype) for x in maps], kernel)
        return jax.nn.relu(self.norm(y, use_running_average=evaluates(train)))
