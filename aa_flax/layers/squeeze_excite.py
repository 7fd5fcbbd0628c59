"""Squeeze-and-excitation (Hu et al., 2018)."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from aa_flax.layers.initializers import lecun_normal


class SqueezeExcite(nnx.Module):
    """`x * sigmoid(W2 relu(W1 mean(x)))`: each channel scaled by a gate computed from all channels' means.

    Args:
        features: channels c of the map.
        reduction: the hidden layer has max(1, c // reduction) units; 16 in all the authors' models.
        hidden_features: units of the hidden layer, instead of the reduction.
        use_bias: whether W1 and W2 have biases. In the authors' networks they do; the 36.5 M parameters that Bello et
            al. (2019), Table 1, print for SE-WRN-28-10 require that they do not.
        linear: builds W1 and W2, called as `nnx.Linear`; another one gives them other initial weights.
    """

    def __init__(
        self,
        features: int,
        *,
        reduction: int = 16,
        hidden_features: int | None = None,
        use_bias: bool = True,
        linear: Callable[..., Any] = functools.partial(nnx.Linear, kernel_init=lecun_normal),  # noqa: B008, pure
        dtype: Any = jnp.float32,
        param_dtype: Any = jnp.float32,
        rngs: nnx.Rngs,
    ) -> None:
        if reduction < 1:
            raise ValueError(f"reduction must be at least 1, got {reduction}")
        hidden = max(1, features // reduction) if hidden_features is None else hidden_features
        options = dict(use_bias=use_bias, dtype=dtype, param_dtype=param_dtype, rngs=rngs)
        self.squeeze = linear(features, hidden, **options)
        self.excite = linear(hidden, features, **options)

    def __call__(self, x: Float[Array, "b h w c"], *, train: bool | None = None) -> Float[Array, "b h w c"]:
        """Return the map with its channels scaled; `train` changes nothing."""
        return x * jax.nn.sigmoid(self.logits(x.mean((1, 2), keepdims=True))).astype(x.dtype)

    def logits(self, mean: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        """Return the output of the two layers before the sigmoid, at each location."""
        return self.excite(jax.nn.relu(self.squeeze(mean)))
