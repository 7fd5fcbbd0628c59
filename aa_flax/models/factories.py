"""What a block takes from outside: the convolution that may be replaced, and what follows its residual branch.

Networks wire these factories and know nothing of the layers behind them, so a new layer enters every network as one
more factory here or in the user's own code.
"""

import inspect
import math
from collections.abc import Callable, Sequence
from typing import Any, Protocol, runtime_checkable

from flax import nnx

from aa_flax.layers import AAConv2D, GatherExcite, SqueezeExcite
from aa_flax.layers.aa_conv import Position
from aa_flax.layers.attention_depths import ValueRounding
from aa_flax.layers.initializers import he_normal_fan_out
from aa_flax.ops.tables import TableResize


@runtime_checkable  # the shape checker of the tests asks
class ConvFactory(Protocol):
    """Builds the convolution of a block; `map_shape` is (h, w) of its output, `stage` counts from 1."""

    def __call__(
        self,
        in_features: int,
        out_features: int,
        kernel_size: int,
        *,
        strides: int,
        map_shape: tuple[int, int],
        stage: int,
        dtype: Any,
        param_dtype: Any,
        rngs: nnx.Rngs,
    ) -> nnx.Module: ...


@runtime_checkable  # the shape checker of the tests asks
class RecalibrationFactory(Protocol):
    """Builds what scales the output of a residual branch before the addition, or None for nothing."""

    def __call__(self, features: int, *, dtype: Any, param_dtype: Any, rngs: nnx.Rngs) -> nnx.Module | None: ...


def plain_conv(
    in_features: int,
    out_features: int,
    kernel_size: int,
    *,
    strides: int = 1,
    map_shape: tuple[int, int] | None = None,
    stage: int = 0,
    dtype: Any,
    param_dtype: Any,
    rngs: nnx.Rngs,
) -> nnx.Conv:
    """A convolution without bias, padding (kernel_size - 1) // 2 on every side whatever the stride."""
    padding = ((kernel_size - 1) // 2,) * 2
    return nnx.Conv(
        in_features,
        out_features,
        (kernel_size, kernel_size),
        strides=strides,
        padding=(padding, padding),
        use_bias=False,
        kernel_init=he_normal_fan_out,
        dtype=dtype,
        param_dtype=param_dtype,
        rngs=rngs,
    )


def augmented_conv(
    *,
    num_heads: int = 8,
    kappa: float = 0.2,
    upsilon: float = 0.1,
    min_key_depth_per_head: int = 20,
    value_rounding: ValueRounding = "floor",
    attention_downsample: int | Sequence[int] = 1,
    position: Position = "relative",
    table_resize: TableResize = "linear",
    attention_bias: bool = False,
    implementation: str = "auto",
) -> ConvFactory:
    """A factory of `AAConv2D`; `attention_downsample` is one factor, or one per stage. Others: see the layer."""

    def build(
        in_features: int,
        out_features: int,
        kernel_size: int,
        *,
        strides: int,
        map_shape: tuple[int, int],
        stage: int,
        dtype: Any,
        param_dtype: Any,
        rngs: nnx.Rngs,
    ) -> AAConv2D:
        factor = attention_downsample if isinstance(attention_downsample, int) else attention_downsample[stage - 1]
        return AAConv2D(
            in_features,
            out_features,
            kernel_size,
            strides=strides,
            num_heads=num_heads,
            kappa=kappa,
            upsilon=upsilon,
            min_key_depth_per_head=min_key_depth_per_head,
            value_rounding=value_rounding,
            spatial_shape=(math.ceil(map_shape[0] / factor), math.ceil(map_shape[1] / factor)),
            attention_downsample=factor,
            position=position,
            table_resize=table_resize,
            use_bias=attention_bias,
            implementation=implementation,
            kernel_init=he_normal_fan_out,
            dtype=dtype,
            param_dtype=param_dtype,
            rngs=rngs,
        )

    return build


def squeeze_excite(*, reduction: int = 16, squeeze_excite_bias: bool = True) -> RecalibrationFactory:
    """A factory of `SqueezeExcite`."""

    def build(features: int, *, dtype: Any, param_dtype: Any, rngs: nnx.Rngs) -> SqueezeExcite:
        return SqueezeExcite(
            features,
            reduction=reduction,
            use_bias=squeeze_excite_bias,
            dtype=dtype,
            param_dtype=param_dtype,
            rngs=rngs,
        )

    return build


def gather_excite() -> RecalibrationFactory:
    """A factory of the parameter-free `GatherExcite`."""

    def build(features: int, *, dtype: Any, param_dtype: Any, rngs: nnx.Rngs) -> GatherExcite:
        return GatherExcite()

    return build


def no_recalibration(features: int, *, dtype: Any, param_dtype: Any, rngs: nnx.Rngs) -> None:
    """Leaves the residual branch as it is."""
    return


def configured(factory: Callable[..., Any], options: dict[str, Any], **defaults: Any) -> tuple[Any, dict[str, Any]]:
    """`factory` called with those of a model's options that are its keywords, and the options that are left.

    `defaults` are what the model wants of the factory where the options say nothing.
    """
    own = {name: options[name] for name in inspect.signature(factory).parameters if name in options}
    rest = {name: value for name, value in options.items() if name not in own}
    return factory(**{**defaults, **own}), rest
