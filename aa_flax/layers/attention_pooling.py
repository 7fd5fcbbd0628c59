"""Attention-based aggregation (Touvron et al., 2021, "Augmenting Convolutional networks with attention-based
aggregation"): what PatchConvNet uses instead of average pooling, for any map."""

from numbers import Integral, Real
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from aa_flax.layers.initializers import normal
from aa_flax.layers.norm import LayerNorm
from aa_flax.ops.scaling import scaled_softmax
from aa_flax.precision import at_least_float32

_linear_init = normal(0.02)  # the authors' code truncates at ±2, which is 100 standard deviations


class AttentionPooling(nnx.Module):
    """A transformer block whose only queries are learned tokens, over the locations of a map:

        q = Wq LN1(tokens)    k = Wk LN1(keys)    v = Wv LN1(keys)
        z = tokens + gamma1 * Wo softmax(q kᵀ / sqrt(width)) v
        z = LN(z + gamma2 * MLP(LN2(z)))

    There is one head. A single token is one of the keys too, so that the weights over the map sum to less than one.
    With several tokens, for example one for each class, the keys are the map's locations alone (both as in the authors'
    code). MLP is a layer to mlp_ratio * width, GELU, and one back; linear layers have biases, LN an epsilon of 1e-6.

    Parameters at width d and MLP ratio 3: 10 d² + 14 d, plus the tokens (d each), the last LN (2 d) and, if width is
    not that of the map, a linear layer before the others (`reduce`): 42 million for the 2048 channels of a ResNet-50.

    Sub-modules: `reduce` (or None), `norm1`, `query`, `key`, `value`, `out`, `norm2`, `mlp1`, `mlp2`, `norm`;
    parameters `tokens` [tokens, width], `gamma1` and `gamma2` [width].

    Args:
        features: channels c of the map.
        tokens: the number of queries.
        width: channels d of tokens, keys and values; None is `features`.
        mlp_ratio: hidden units of the MLP per channel.
        layer_scale_init: initial value of gamma1 and gamma2; 1e-4 in the authors' S60, 1e-6 in their larger networks.

    Raises:
        ValueError: sizes below 1; at call time a map that does not fit.
    """

    attends = True

    def __init__(
        self,
        features: int,
        *,
        tokens: int = 1,
        width: int | None = None,
        mlp_ratio: float = 3.0,
        layer_scale_init: float = 1e-4,
        dtype: Any = jnp.float32,
        param_dtype: Any = jnp.float32,
        rngs: nnx.Rngs,
    ) -> None:
        width = features if width is None else width
        for name, value in (("mlp_ratio", mlp_ratio), ("layer_scale_init", layer_scale_init)):
            if not isinstance(value, Real):
                raise ValueError(f"{name} must be a number, got {value!r}")
        hidden = round(mlp_ratio * width)
        for name, value in (
            ("features", features),
            ("tokens", tokens),
            ("width", width),
            ("mlp_ratio * width", hidden),
        ):
            if not isinstance(value, Integral) or value < 1:
                raise ValueError(f"{name} must be a whole number of at least 1, got {value!r}")
        options: dict[str, Any] = dict(dtype=dtype, param_dtype=param_dtype, rngs=rngs)

        def linear(inputs: int, outputs: int) -> nnx.Linear:
            return nnx.Linear(inputs, outputs, kernel_init=_linear_init, **options)

        def norm() -> LayerNorm:
            return LayerNorm(width, epsilon=1e-6, **options)

        self.features = features
        self.width = width
        self.dtype = dtype
        self.reduce = linear(features, width) if width != features else None
        self.tokens = nnx.Param(_linear_init(rngs.params(), (tokens, width), param_dtype))
        self.norm1 = norm()
        self.query = linear(width, width)
        self.key = linear(width, width)
        self.value = linear(width, width)
        self.out = linear(width, width)
        self.gamma1 = nnx.Param(jnp.full((width,), layer_scale_init, param_dtype))
        self.norm2 = norm()
        self.mlp1 = linear(width, hidden)
        self.mlp2 = linear(hidden, width)
        self.gamma2 = nnx.Param(jnp.full((width,), layer_scale_init, param_dtype))
        self.norm = norm()

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b tokens width"]:
        """Return the tokens after they have attended to the map, normalised."""
        keys = self._keys(x)
        weights = self._weights(keys)
        attended = self.out(jnp.einsum("btk,bkd->btd", weights.astype(self.dtype), self.value(keys)))
        z = self._param(self.tokens) + self._param(self.gamma1) * attended
        hidden = jax.nn.gelu(self.mlp1(self.norm2(z)), approximate=False)
        return self.norm(z + self._param(self.gamma2) * self.mlp2(hidden))

    def attention_weights(self, x: Float[Array, "b h w c"], queries: Any = None) -> Float[Array, "b 1 tokens h w"]:
        """Return the attention weights of each token over the locations of the map, in at least float32.

        A single token's weights sum to one minus its weight on itself. `queries` makes the signature that of `AAConv2D`
        and changes nothing: the queries are the tokens.
        """
        weights = self._weights(self._keys(x))
        b, h, w, _ = x.shape
        return weights[:, None, :, weights.shape[-1] - h * w :].reshape(b, 1, -1, h, w)

    def attended_shape(self, height: int, width: int) -> tuple[int, int]:
        """Return the size of the map that is attended to: that of the input."""
        return height, width

    def _keys(self, x: Array) -> Float[Array, "b keys width"]:
        """Return LN1 of what the tokens may attend to; a single token comes first itself."""
        if x.ndim != 4 or x.shape[-1] != self.features or 0 in x.shape:
            raise ValueError(f"x must have shape [b, h, w, features={self.features}], none of them 0, got {x.shape}")
        b, h, w, c = x.shape
        places = x.astype(self.dtype).reshape(b, h * w, c)
        if self.reduce is not None:
            places = self.reduce(places)
        places = self.norm1(places)
        if self.tokens.shape[0] > 1:
            return places
        # The sum with zeros is split over the devices as the map is, for meshes that check it.
        own = jnp.zeros_like(places[:, :1]) + self.norm1(self._param(self.tokens))
        return jnp.concatenate([own, places], 1)

    def _weights(self, keys: Float[Array, "b keys width"]) -> Float[Array, "b tokens keys"]:
        compute = at_least_float32(self.dtype)
        query = self.query(self.norm1(self._param(self.tokens)))[0]
        logits = jnp.einsum("td,bkd->btk", query, self.key(keys), preferred_element_type=compute)
        return scaled_softmax(logits, self.width**-0.5, -1)

    def _param(self, param: nnx.Param[Array]) -> Array:
        """Return a parameter in the dtype of the computation, with leading axes of 1 up to rank 3."""
        value = param[...].astype(self.dtype)
        return value.reshape((1,) * (3 - value.ndim) + value.shape)
