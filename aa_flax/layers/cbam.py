"""Convolutional block attention module (Woo et al., 2018)."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from aa_flax.layers.initializers import he_normal_fan_out, lecun_normal
from aa_flax.layers.mode import evaluates
from aa_flax.layers.norm import batch_norm


class CBAM(nnx.Module):
    """A channel gate, then a spatial gate.

        x' = x * sigmoid(MLP(mean(x)) + MLP(max(x)))         one MLP, c -> c // reduction -> c, ReLU between
        x'' = x' * sigmoid(BN(conv7×7[max_c(x'), mean_c(x')]))

    Args:
        features: channels c of the map.
        reduction: 16 in the paper.
        use_bias: whether the MLP has biases; the authors' code has them.
        gate_scale_init: initial scale of the batch norm before the spatial gate. The authors' code starts at 0, so that
            the gate is 1/2 everywhere at first; the convolution before it learns only after the scale has changed.
    """

    def __init__(
        self,
        features: int,
        *,
        reduction: int = 16,
        use_bias: bool = True,
        gate_scale_init: float = 0.0,
        dtype: Any = jnp.float32,
        param_dtype: Any = jnp.float32,
        rngs: nnx.Rngs,
    ) -> None:
        if reduction < 1:
            raise ValueError(f"reduction must be at least 1, got {reduction}")
        hidden = max(1, features // reduction)
        options: dict[str, Any] = dict(dtype=dtype, param_dtype=param_dtype, rngs=rngs)
        linear: dict[str, Any] = dict(use_bias=use_bias, kernel_init=lecun_normal, **options)
        self.squeeze = nnx.Linear(features, hidden, **linear)
        self.excite = nnx.Linear(hidden, features, **linear)
        self.spatial = nnx.Conv(2, 1, (7, 7), padding=3, use_bias=False, kernel_init=he_normal_fan_out, **options)
        self.bn = batch_norm(1, momentum=0.99, scale_init=nnx.initializers.constant(gate_scale_init), **options)

    def __call__(self, x: Float[Array, "b h w c"], *, train: bool | None = None) -> Float[Array, "b h w c"]:
        """Return the map with its channels and locations scaled."""
        logits = sum(self.excite(jax.nn.relu(self.squeeze(pooled))) for pooled in (x.mean((1, 2)), x.max((1, 2))))
        x = x * jax.nn.sigmoid(logits)[:, None, None, :].astype(x.dtype)
        pooled = jnp.stack([x.max(-1), x.mean(-1)], -1)
        logits = self.bn(self.spatial(pooled), use_running_average=evaluates(train))
        return x * jax.nn.sigmoid(logits).astype(x.dtype)
