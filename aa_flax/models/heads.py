"""From the last map of a network to logits: the mean, or attention, and a classifier."""

import functools
import inspect
from typing import Any, Literal, Protocol, get_args, runtime_checkable

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from aa_flax.layers import AttentionPooling
from aa_flax.layers.initializers import lecun_normal

Tokens = Literal["single", "class"]


@runtime_checkable  # the shape checker of the tests asks
class PoolingFactory(Protocol):
    """Builds what turns a map [b, h, w, features] into [b, width], or None for the mean.

    The module says its `width`, if that is not `features`. Only `AttentionPooling` may give several tokens.
    """

    def __call__(
        self, features: int, num_classes: int, *, dtype: Any, param_dtype: Any, rngs: nnx.Rngs
    ) -> nnx.Module | None: ...


def average(features: int, num_classes: int, *, dtype: Any, param_dtype: Any, rngs: nnx.Rngs) -> None:
    """The mean over the map."""
    return


def attention_pooling(
    *,
    pooling_tokens: Tokens = "single",
    pooling_width: int | None = None,
    pooling_mlp_ratio: float = 3.0,
    pooling_layer_scale: float = 1e-4,
) -> PoolingFactory:
    """A factory of `AttentionPooling`, with one token, or with one for each class."""
    if pooling_tokens not in get_args(Tokens):
        raise ValueError(f"pooling_tokens must be one of {get_args(Tokens)}, got {pooling_tokens!r}")

    def build(features: int, num_classes: int, *, dtype: Any, param_dtype: Any, rngs: nnx.Rngs) -> AttentionPooling:
        return AttentionPooling(
            features,
            tokens=num_classes if pooling_tokens == "class" else 1,
            width=pooling_width,
            mlp_ratio=pooling_mlp_ratio,
            layer_scale_init=pooling_layer_scale,
            dtype=dtype,
            param_dtype=param_dtype,
            rngs=rngs,
        )

    return build


OPTIONS = tuple(inspect.signature(attention_pooling).parameters)
"""Options of every network that go with attention pooling."""


def with_pooling(options: dict[str, Any], default: str = "average", **defaults: Any) -> dict[str, Any]:
    """A network's options with the factory that `pooling` and the options beside it stand for.

    Args:
        options: `pooling` is "average", "attention" or a `PoolingFactory`.
        default: what `pooling` is where the options do not say.
        defaults: of `attention_pooling`.

    Raises:
        ValueError: an unknown pooling, or options that go with another one.
    """
    pooling = options.get("pooling", default)
    own = {name: value for name, value in options.items() if name in OPTIONS}
    rest = {name: value for name, value in options.items() if name not in (*OPTIONS, "pooling")}
    if pooling == "attention":
        return {**rest, "pooling": attention_pooling(**{**defaults, **own})}
    if own:
        raise ValueError(f"{', '.join(own)} goes with pooling='attention', and pooling is {pooling!r}")
    if pooling == "average":
        return {**rest, "pooling": average}
    if not callable(pooling):
        raise ValueError(f"pooling must be 'average', 'attention' or a factory, got {pooling!r}")
    return {**rest, "pooling": pooling}


class ClassHead(nnx.Module):
    """A linear classifier for each token: logit k of token k, [b, k, width] to [b, k]; kernel [width, k], bias [k]."""

    def __init__(
        self,
        width: int,
        num_classes: int,
        *,
        kernel_init: nnx.Initializer = lecun_normal,
        dtype: Any,
        param_dtype: Any,
        rngs: nnx.Rngs,
    ) -> None:
        self.dtype = dtype
        self.kernel = nnx.Param(kernel_init(rngs.params(), (width, num_classes), param_dtype))
        self.bias = nnx.Param(jnp.zeros((num_classes,), param_dtype))

    def __call__(self, tokens: Float[Array, "b k width"]) -> Float[Array, "b k"]:
        """A logit of each token."""
        products = jnp.einsum("bkd,dk->bk", tokens.astype(self.dtype), self.kernel[...].astype(self.dtype))
        return products + self.bias[...].astype(self.dtype)[None]


def classifier(
    features: int,
    num_classes: int,
    pooling: PoolingFactory,
    *,
    kernel_init: nnx.Initializer = lecun_normal,
    **options: Any,
) -> tuple[Any, Any]:
    """(`pooling`, `head`) of a network; the first is None for the mean."""
    pool: Any = pooling(features, num_classes, **options)
    linear = functools.partial(nnx.Linear, kernel_init=kernel_init)
    if not isinstance(pool, AttentionPooling):
        return pool, linear(getattr(pool, "width", features), num_classes, **options)
    if pool.tokens.shape[0] == 1:
        return pool, linear(pool.width, num_classes, **options)
    return pool, ClassHead(pool.width, num_classes, kernel_init=kernel_init, **options)


def pooled(pooling: Any, x: Float[Array, "b h w c"]) -> Float[Array, "b *tokens width"]:
    """What the head takes: [b, width], or [b, tokens, width] where it takes several tokens."""
    if pooling is None:
        return x.mean((1, 2))
    tokens = pooling(x)
    if tokens.ndim == 3 and tokens.shape[1] == 1:
        return tokens[:, 0]
    if tokens.ndim != 2 and not isinstance(pooling, AttentionPooling):
        raise ValueError(f"a pooling of your own must give [b, width] or [b, 1, width], got {tokens.shape}")
    return tokens
