"""The transposed convolution whose windows do not overlap."""

from typing import Any

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from aa_flax.layers.initializers import torch_defaults


class TransposedConv2x2(nnx.Module):
    """A 2×2 transposed convolution of stride 2 with bias, which doubles the sides of a map:

        y[2r + i, 2c + j] = x[r, c] · kernel[i, j] + bias

    It is one product of matrices and a reshape, as no location of the result has more than one summand. Parameters:
    `kernel` [2, 2, in, out], `bias` [out]; a kernel of PyTorch's `ConvTranspose2d` is [in, out, 2, 2].

    Args:
        in_features, out_features: channels before and after.
        kernel_init, bias_init: initial values; None are PyTorch's, uniform within ±1 / sqrt(4 * out_features).
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        kernel_init: nnx.Initializer | None = None,
        bias_init: nnx.Initializer | None = None,
        dtype: Any = jnp.float32,
        param_dtype: Any = jnp.float32,
        rngs: nnx.Rngs,
    ) -> None:
        theirs = torch_defaults(4 * out_features)
        kernel_init, bias_init = kernel_init or theirs["kernel_init"], bias_init or theirs["bias_init"]
        self.dtype = dtype
        self.kernel = nnx.Param(kernel_init(rngs.params(), (2, 2, in_features, out_features), param_dtype))
        self.bias = nnx.Param(bias_init(rngs.params(), (out_features,), param_dtype))

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b hs ws f"]:
        """Return the map of twice the height and width."""
        kernel, bias = (param[...].astype(self.dtype) for param in (self.kernel, self.bias))
        y = jnp.einsum("bhwc,ijcf->bhiwjf", x.astype(self.dtype), kernel)
        b, h, _, w, _, f = y.shape
        # One axis after the other, because meshes that check shardings reshape no more at once.
        return y.reshape(b, 2 * h, w, 2, f).reshape(b, 2 * h, 2 * w, f) + bias[None, None, None]
