"""What a block takes from outside: the convolution that may be replaced, and what follows its residual branch.

Networks wire these factories and know nothing of the layers behind them, so a new layer enters every network as one
more factory here or in the user's own code.
"""

import functools
import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

from flax import nnx

from aa_flax.layers import BAM, CBAM, GALA, AAConv2D, AWConv2D, GatherExcite, SqueezeExcite
from aa_flax.layers.aa_conv import Position
from aa_flax.layers.attention_depths import ValueRounding
from aa_flax.layers.aw_conv import AWVariant, Pool
from aa_flax.layers.bam import Combine
from aa_flax.layers.gala import Squash
from aa_flax.layers.gather_excite import Variant
from aa_flax.layers.initializers import he_normal_fan_out
from aa_flax.ops import convolution
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
    """Builds what scales a map [b, map_shape, features], called as `module(x, train=train)`; or None for nothing."""

    def __call__(
        self, features: int, *, map_shape: tuple[int, int], dtype: Any, param_dtype: Any, rngs: nnx.Rngs
    ) -> nnx.Module | None: ...


def plain_conv(
    in_features: int,
    out_features: int,
    kernel_size: int,
    *,
    strides: int = 1,
    groups: int = 1,
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
        feature_group_count=groups,
        use_bias=False,
        kernel_init=he_normal_fan_out,
        conv_general_dilated=convolution,
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
    attention_stages: Sequence[int] = (1, 2, 3, 4),
    position: Position = "relative",
    table_resize: TableResize = "linear",
    attention_bias: bool = False,
    implementation: str = "auto",
    convolution: ConvFactory = plain_conv,
) -> ConvFactory:
    """A factory of `AAConv2D`; `attention_downsample` is one factor, or one per stage. Others: see the layer.

    Stages that are not in `attention_stages` get what `convolution` makes alone, the others have it beside attention.
    """

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
    ) -> nnx.Module:
        beside = functools.partial(convolution, map_shape=map_shape, stage=stage)
        options: dict[str, Any] = dict(strides=strides, dtype=dtype, param_dtype=param_dtype, rngs=rngs)
        if stage not in attention_stages:
            return beside(in_features, out_features, kernel_size, **options)
        factors = [attention_downsample] if isinstance(attention_downsample, int) else [*attention_downsample]
        if len(factors) == 1:
            factors *= stage
        if stage > len(factors) or not all(isinstance(f, int) and f >= 1 for f in factors):
            raise ValueError(
                "attention_downsample must be one whole number of at least 1, or one for each stage, "
                f"got {attention_downsample!r} for stage {stage}"
            )
        factor = factors[stage - 1]
        return AAConv2D(
            in_features,
            out_features,
            kernel_size,
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
            convolution_layer=None if convolution is plain_conv else beside,
            **options,
        )

    return build


def weighted_conv(
    *,
    aw_variant: AWVariant = "expand",
    aw_pool: Pool = "adaptive",
    aw_reduction: int = 16,
    aw_residual: bool = True,
    aw_gate_scale: float | None = None,
    aw_implementation: str = "auto",
) -> ConvFactory:
    """A factory of `AWConv2D`; the options are the layer's."""

    def build(
        in_features: int,
        out_features: int,
        kernel_size: int,
        *,
        strides: int = 1,
        groups: int = 1,
        map_shape: tuple[int, int] | None = None,
        stage: int = 0,
        dtype: Any,
        param_dtype: Any,
        rngs: nnx.Rngs,
    ) -> AWConv2D:
        return AWConv2D(
            in_features,
            out_features,
            kernel_size,
            strides=strides,
            groups=groups,
            variant=aw_variant,
            pool=aw_pool,
            reduction=aw_reduction,
            residual=aw_residual,
            gate_scale=aw_gate_scale,
            implementation=aw_implementation,
            kernel_init=he_normal_fan_out,
            dtype=dtype,
            param_dtype=param_dtype,
            rngs=rngs,
        )

    return build


def augmented_weighted_conv(**options: Any) -> ConvFactory:
    """A factory of `AAConv2D` whose convolutions are `AWConv2D`; takes the options of both."""
    return augmented_conv(**plug(options, {"convolution": weighted_conv}))


# What `plug` and the registry read a factory's options from.
augmented_weighted_conv.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
    [
        *(p for p in inspect.signature(augmented_conv).parameters.values() if p.name != "convolution"),
        *inspect.signature(weighted_conv).parameters.values(),
    ]
)


def squeeze_excite(*, reduction: int = 16, squeeze_excite_bias: bool = True) -> RecalibrationFactory:
    """A factory of `SqueezeExcite`."""
    return _ignoring_map(SqueezeExcite, reduction=reduction, use_bias=squeeze_excite_bias)


def gather_excite(*, variant: Variant = "theta_minus", extent: int = 0, reduction: int = 16) -> RecalibrationFactory:
    """A factory of `GatherExcite`, by default the form without parameters over the whole map."""
    return functools.partial(GatherExcite, variant=variant, extent=extent, reduction=reduction)


def bam(*, reduction: int = 16, combine: Combine = "add", dilation: int = 4) -> RecalibrationFactory:
    """A factory of `BAM`."""
    return _ignoring_map(BAM, reduction=reduction, combine=combine, dilation=dilation)


def cbam(*, reduction: int = 16, cbam_bias: bool = True, gate_scale_init: float = 0.0) -> RecalibrationFactory:
    """A factory of `CBAM`."""
    return _ignoring_map(CBAM, reduction=reduction, use_bias=cbam_bias, gate_scale_init=gate_scale_init)


def gala(*, reduction: int = 16, squash: Squash = "tanh", extra_conv: bool = False) -> RecalibrationFactory:
    """A factory of `GALA`."""
    return _ignoring_map(GALA, reduction=reduction, squash=squash, extra_conv=extra_conv)


def no_recalibration(
    features: int, *, map_shape: tuple[int, int], dtype: Any, param_dtype: Any, rngs: nnx.Rngs
) -> None:
    """Leaves the map as it is."""
    return


def _ignoring_map(layer: Callable[..., nnx.Module], **settings: Any) -> RecalibrationFactory:
    def build(features: int, *, map_shape: tuple[int, int], dtype: Any, param_dtype: Any, rngs: nnx.Rngs) -> nnx.Module:
        return layer(features, **settings, dtype=dtype, param_dtype=param_dtype, rngs=rngs)

    return build


def plug(options: dict[str, Any], plugs: Mapping[str, Callable[..., Any]], **defaults: Any) -> dict[str, Any]:
    """A network's options, with each argument in `plugs` made by its factory.

    The factories take those options that are their keywords, several factories the same ones if need be; the rest is
    the network's. `defaults` are what the network wants of the factories where the options say nothing.
    """
    keywords = {argument: inspect.signature(factory).parameters for argument, factory in plugs.items()}
    rest = {name: value for name, value in options.items() if not any(name in own for own in keywords.values())}
    wanted = {**defaults, **options}
    made = {
        argument: factory(**{name: wanted[name] for name in keywords[argument] if name in wanted})
        for argument, factory in plugs.items()
    }
    return {**rest, **made}
