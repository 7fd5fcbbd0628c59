"""Gather-excite (Hu et al., 2018b), in its parameter-free form."""

import jax
from flax import nnx
from jaxtyping import Array, Float


class GatherExcite(nnx.Module):
    """`x * sigmoid(mean(x))` with the mean over the whole map: GE-θ⁻ with global extent, no parameters."""

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        return x * jax.nn.sigmoid(x.mean((1, 2), keepdims=True))
