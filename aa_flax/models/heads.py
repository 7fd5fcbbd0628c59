"""Heads of networks, from the last map to logits: the mean or attention pooling, and a classifier."""

import functools
from dataclasses import dataclass, fields
from typing import Any, Literal, Protocol, get_args, runtime_checkable

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float

from aa_flax.layers import AttentionPooling
from aa_flax.layers.initializers import lecun_normal

Tokens = Literal["single", "class"]


@runtime_checkable  # the shape checker of the tests calls isinstance
class PoolingFactory(Protocol):
    """Function that builds a module from a map [b, h, w, features] to [b, width], or returns None for the mean.

    If the width is not `features`, the module has it as attribute `width`. Only `AttentionPooling` may return several
    tokens.
    """

    def __call__(
        self, features: int, num_classes: int, *, dtype: Any, param_dtype: Any, rngs: nnx.Rngs
    ) -> nnx.Module | None: ...


@dataclass(frozen=True, kw_only=True)
class HeadOptions:
    """Options of every network for the pooling between its last map and its classifier."""

    pooling: Literal["average", "attention"] | PoolingFactory = "average"
    pooling_tokens: Tokens = "single"  # with "attention": one token, or one for each class
    pooling_width: int | None = None  # width of the tokens; None is that of the map
    pooling_mlp_ratio: float = 3.0
    pooling_layer_scale: float | None = None  # None is that of the network's blocks if they have one, else 1e-4


def _attention_pooling(options: HeadOptions, layer_scale: float) -> PoolingFactory:
    """Return a factory of `AttentionPooling` with one token, or with one for each class."""

    def build(features: int, num_classes: int, *, dtype: Any, param_dtype: Any, rngs: nnx.Rngs) -> AttentionPooling:
        return AttentionPooling(
            features,
            tokens=max(1, num_classes) if options.pooling_tokens == "class" else 1,
            width=options.pooling_width,
            mlp_ratio=options.pooling_mlp_ratio,
            layer_scale_init=layer_scale if options.pooling_layer_scale is None else options.pooling_layer_scale,
            dtype=dtype,
            param_dtype=param_dtype,
            rngs=rngs,
        )

    return build


class ClassHead(nnx.Module):
    """Linear classifier from one token for each class, [b, k, width] to [b, k]; kernel [width, k], bias [k].

    Logit k is computed from token k alone.
    """

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
        """Return one logit for each token."""
        products = jnp.einsum("bkd,dk->bk", tokens.astype(self.dtype), self.kernel[...].astype(self.dtype))
        return products + self.bias[...].astype(self.dtype)[None]


def classifier(
    features: int,
    num_classes: int,
    options: HeadOptions,
    *,
    layer_scale: float = 1e-4,
    kernel_init: nnx.Initializer = lecun_normal,
    **arrays: Any,
) -> tuple[Any, Any]:
    """Build the pooling and the classifier of a network.

    Args:
        features: channels of the last map.
        num_classes: width of the classifier; 0 builds none, and then pooling with a token for each class has one token.
        options: options of the network.
        layer_scale: initial layer scale of attention pooling, if the options set none.
        kernel_init: initializer of the classifier's kernel.
        arrays: dtype, param_dtype and rngs.

    Returns:
        The pooling module, None for the mean; and the classifier, None with num_classes=0.

    Raises:
        ValueError: an unknown pooling, or options that only another pooling has.
    """
    pool: Any = _pooling(options, layer_scale)
    pool = None if pool is None else pool(features, num_classes, **arrays)
    if num_classes == 0:
        return pool, None
    linear = functools.partial(nnx.Linear, kernel_init=kernel_init)
    if not isinstance(pool, AttentionPooling):
        return pool, linear(getattr(pool, "width", features), num_classes, **arrays)
    if pool.tokens.shape[0] == 1:
        return pool, linear(pool.width, num_classes, **arrays)
    return pool, ClassHead(pool.width, num_classes, kernel_init=kernel_init, **arrays)


def _pooling(options: HeadOptions, layer_scale: float) -> PoolingFactory | None:
    if options.pooling_tokens not in get_args(Tokens):
        raise ValueError(f"pooling_tokens must be one of {get_args(Tokens)}, got {options.pooling_tokens!r}")
    if options.pooling == "attention":
        return _attention_pooling(options, layer_scale)
    own = {field.name for field in fields(HeadOptions)} - {"pooling"}
    given = [f.name for f in fields(options) if f.name in own and getattr(options, f.name) != f.default]
    if given:
        raise ValueError(f"{', '.join(given)} goes with pooling='attention', and pooling is {options.pooling!r}")
    if options.pooling == "average":
        return None
    if not callable(options.pooling):
        raise ValueError(f"pooling must be 'average', 'attention' or a factory, got {options.pooling!r}")
    return options.pooling


def outputs(
    pooling: Any, head: Any, x: Float[Array, "b *space c"], valid: Bool[Array, "b *space"] | None = None
) -> Float[Array, "b _"]:
    """Return the logits [b, classes] of the last map, or the pooled features [b, width] if there is no classifier.

    With `valid`, the mean is that of the valid locations.
    """
    tokens = _mean_of_valid(x, valid) if valid is not None and pooling is None else pooled(pooling, x)
    return tokens if head is None else head(tokens)


def _mean_of_valid(x: Array, valid: Array) -> Array:
    axes = tuple(range(1, x.ndim - 1))
    count = jnp.maximum(valid.sum(axes), 1).astype(x.dtype)
    return jnp.where(valid[..., None], x, jnp.zeros((), x.dtype)).sum(axes) / count[:, None]


def pooled(pooling: Any, x: Float[Array, "b *space c"]) -> Float[Array, "b *tokens width"]:
    """Return the input of the classifier: [b, width], or [b, tokens, width] for several tokens.

    Raises:
        ValueError: the user's own pooling returns another shape.
    """
    if pooling is None:
        return x.mean(tuple(range(1, x.ndim - 1)))
    tokens = pooling(x)
    if tokens.ndim == 3 and tokens.shape[1] == 1:
        return tokens[:, 0]
    if tokens.ndim != 2 and not isinstance(pooling, AttentionPooling):
        raise ValueError(f"a pooling of your own must give [b, width] or [b, 1, width], got {tokens.shape}")
    return tokens
