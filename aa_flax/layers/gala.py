"""Global-and-local attention (Linsley et al., 2019)."""

from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from aa_flax.layers.initializers import he_normal_fan_out, lecun_normal

Squash = Literal["tanh", "sigmoid"]


class GALA(nnx.Module):
    """`x * squash(a * (g + l) + m * (g * l))` with a global vector g, a local map l and learned a and m per channel.

    g = W2 relu(W1 mean(x)) has c channels, l = conv1×1(relu(conv1×1(x))) has one. There are no biases, which agrees
    with the 29.4 M parameters of Bello et al. (2019), Table 2.

    Args:
        features: channels c of the map.
        reduction: hidden layers have max(1, c // reduction) channels; 16 as in Bello et al., 4 in the authors' code.
        squash: "tanh" is the formula's; the authors' code defaults to "sigmoid".
        extra_conv: whether to add the 5×5 convolution that the authors' code has between the two 1×1 of the local path.
    """

    def __init__(
        self,
        features: int,
        *,
        reduction: int = 16,
        squash: Squash = "tanh",
        extra_conv: bool = False,
        dtype: Any = jnp.float32,
        param_dtype: Any = jnp.float32,
        rngs: nnx.Rngs,
    ) -> None:
        if squash not in get_args(Squash):
            raise ValueError(f"squash must be one of {get_args(Squash)}, got {squash!r}")
        if reduction < 1:
            raise ValueError(f"reduction must be at least 1, got {reduction}")
        hidden = max(1, features // reduction)
        options: dict[str, Any] = dict(use_bias=False, dtype=dtype, param_dtype=param_dtype, rngs=rngs)
        convolution: dict[str, Any] = dict(kernel_init=he_normal_fan_out, **options)
        self.squash = squash
        self.squeeze = nnx.Linear(features, hidden, kernel_init=lecun_normal, **options)
        self.excite = nnx.Linear(hidden, features, kernel_init=lecun_normal, **options)
        self.reduce = nnx.Conv(features, hidden, (1, 1), **convolution)
        self.conv = nnx.Conv(hidden, hidden, (5, 5), padding=2, **convolution) if extra_conv else None
        self.local = nnx.Conv(hidden, 1, (1, 1), **convolution)
        self.additive = nnx.Param(lecun_normal(rngs.params(), (1, features), param_dtype)[0])
        self.multiplicative = nnx.Param(lecun_normal(rngs.params(), (1, features), param_dtype)[0])

    def __call__(self, x: Float[Array, "b h w c"], *, train: bool | None = None) -> Float[Array, "b h w c"]:
        """Return the map with every location of every channel scaled; `train` changes nothing."""
        g = self.excite(jax.nn.relu(self.squeeze(x.mean((1, 2)))))[:, None, None, :]
        local = jax.nn.relu(self.reduce(x))
        if self.conv is not None:
            local = jax.nn.relu(self.conv(local))
        local = self.local(local)
        a, m = (p[...].astype(local.dtype)[None, None, None, :] for p in (self.additive, self.multiplicative))
        logits = a * (g + local) + m * (g * local)
        gate = jnp.tanh(logits) if self.squash == "tanh" else jax.nn.sigmoid(logits)
        return x * gate.astype(x.dtype)
