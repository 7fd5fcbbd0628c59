"""Factories that a block is given: they build the convolutions that may be replaced, and the recalibration.

Networks call these factories and do not know the layers that they build, so a new layer enters every network as one
more factory, here or in the user's own code. A factory with options is a frozen dataclass whose fields are the options
and which can be called; `create_model`, its error messages and the command line read the fields.
"""

import functools
import math
from dataclasses import dataclass, field, fields
from typing import Any, Literal, Protocol, get_args, runtime_checkable

from flax import nnx

from aa_flax.layers import AAConv, AAConv2D, AWConv2D
from aa_flax.layers.aa_conv import Position
from aa_flax.layers.attention_depths import ValueRounding, attention_depths
from aa_flax.layers.aw_conv import AWVariant, Pool
from aa_flax.layers.initializers import glorot_uniform, he_normal_fan_out, lecun_normal, normal
from aa_flax.ops import convolution
from aa_flax.ops.tables import TableResize


@runtime_checkable  # the shape checker of the tests calls isinstance
class ConvFactory(Protocol):
    """Function that builds the convolution of a block; `stage` counts from 1.

    `map_shape` is (h, w) of its output, (length,) in networks of signals and (depth, h, w) in those of volumes.
    """

    def __call__(
        self,
        in_features: int,
        out_features: int,
        kernel_size: int,
        *,
        strides: int,
        map_shape: tuple[int, ...],
        stage: int,
        dtype: Any,
        param_dtype: Any,
        rngs: nnx.Rngs,
    ) -> nnx.Module: ...


@runtime_checkable  # the shape checker of the tests calls isinstance
class RecalibrationFactory(Protocol):
    """Function that builds a module which scales a map [b, *map_shape, features], or returns None for no scaling.

    The module is called as `module(x, train=...)` with True, False or None.
    """

    def __call__(
        self, features: int, *, map_shape: tuple[int, ...], dtype: Any, param_dtype: Any, rngs: nnx.Rngs
    ) -> nnx.Module | None: ...


def plain_conv(
    in_features: int,
    out_features: int,
    kernel_size: int,
    *,
    strides: int = 1,
    groups: int = 1,
    map_shape: tuple[int, ...] | None = None,
    stage: int = 0,
    dtype: Any,
    param_dtype: Any,
    rngs: nnx.Rngs,
) -> nnx.Conv:
    """Build a convolution without bias, with padding (kernel_size - 1) // 2 on every side for every stride.

    It has as many dimensions as `map_shape`, two without that.
    """
    axes = 2 if map_shape is None else len(map_shape)
    padding = ((kernel_size - 1) // 2,) * 2
    return nnx.Conv(
        in_features,
        out_features,
        (kernel_size,) * axes,
        strides=strides,
        padding=(padding,) * axes,
        feature_group_count=groups,
        use_bias=False,
        kernel_init=he_normal_fan_out,
        conv_general_dilated=convolution,
        dtype=dtype,
        param_dtype=param_dtype,
        rngs=rngs,
    )


AttentionInit = Literal["glorot_uniform", "he_normal", "lecun_normal"]
TableInit = Literal["scaled", "listing"]
_ATTENTION_INITS: dict[str, nnx.Initializer] = {
    "glorot_uniform": glorot_uniform,
    "he_normal": he_normal_fan_out,
    "lecun_normal": lecun_normal,
}


@dataclass(frozen=True, kw_only=True)
class AugmentedConvFactory:
    """Factory of `AAConv2D` with its options; options without a comment are those of the layer.

    In stages that are not in `attention_stages` the result is what `convolution` builds; in the others it is an
    `AAConv2D` with that convolution beside attention, in networks of signals and volumes an `AAConv`.
    """

    num_heads: int = 8
    kappa: float = 0.2
    upsilon: float = 0.1
    min_key_depth_per_head: int = 20
    value_rounding: ValueRounding = "floor"
    attention_downsample: int | tuple[int, ...] = 1  # one factor, or one for each stage
    attention_stages: tuple[int, ...] = (1, 2, 3, 4)  # counted from 1
    position: Position = "relative"
    table_resize: TableResize = "linear"
    table_init: TableInit | nnx.Initializer = "scaled"  # N(0, 1 / dk), or N(dk**-0.5, 1) as in the authors' listing
    attention_init: AttentionInit | nnx.Initializer = "glorot_uniform"  # of query, key, value and output projection
    attention_bias: bool = False
    implementation: str = "auto"
    convolution: ConvFactory = plain_conv

    def __call__(
        self,
        in_features: int,
        out_features: int,
        kernel_size: int,
        *,
        strides: int,
        map_shape: tuple[int, ...],
        stage: int,
        dtype: Any,
        param_dtype: Any,
        rngs: nnx.Rngs,
    ) -> nnx.Module:
        """Build the convolution of one block, see `ConvFactory`.

        Raises:
            ValueError: options that the layer refuses.
        """
        beside = functools.partial(self.convolution, map_shape=map_shape, stage=stage)
        options: dict[str, Any] = dict(strides=strides, dtype=dtype, param_dtype=param_dtype, rngs=rngs)
        if stage not in self.attention_stages:
            return beside(in_features, out_features, kernel_size, **options)
        factor = self._downsample(stage)
        layer = AAConv2D if len(map_shape) == 2 else AAConv
        return layer(
            in_features,
            out_features,
            kernel_size,
            num_heads=self.num_heads,
            kappa=self.kappa,
            upsilon=self.upsilon,
            min_key_depth_per_head=self.min_key_depth_per_head,
            value_rounding=self.value_rounding,
            spatial_shape=tuple(math.ceil(side / factor) for side in map_shape),
            attention_downsample=factor,
            position=self.position,
            table_resize=self.table_resize,
            table_init=self._table_init(out_features),
            use_bias=self.attention_bias,
            implementation=self.implementation,
            kernel_init=he_normal_fan_out,
            attention_init=self._attention_init(),
            convolution_layer=None if self.convolution is plain_conv else beside,
            **options,
        )

    def _downsample(self, stage: int) -> int:
        """Return the factor of `attention_downsample` for a stage, counted from 1."""
        given = self.attention_downsample
        factors = [given] * stage if isinstance(given, int) else [*given] * (stage if len(given) == 1 else 1)
        if stage > len(factors) or not all(isinstance(factor, int) and factor >= 1 for factor in factors):
            raise ValueError(
                "attention_downsample must be one whole number of at least 1, or one for each stage, "
                f"got {given!r} for stage {stage}"
            )
        return factors[stage - 1]

    def _attention_init(self) -> nnx.Initializer:
        init = self.attention_init
        if not isinstance(init, str):
            return init
        if init not in get_args(AttentionInit):
            raise ValueError(f"attention_init must be one of {get_args(AttentionInit)} or a function, got {init!r}")
        return _ATTENTION_INITS[init]

    def _table_init(self, out_features: int) -> nnx.Initializer | None:
        init = self.table_init
        if not isinstance(init, str):
            return init
        if init not in get_args(TableInit):
            raise ValueError(f"table_init must be one of {get_args(TableInit)} or a function, got {init!r}")
        if init == "scaled":
            return None
        ratios = (self.kappa, self.upsilon, self.num_heads, self.min_key_depth_per_head, self.value_rounding)
        key_depth, _ = attention_depths(out_features, *ratios)
        return normal(1.0, mean=max(1, key_depth // self.num_heads) ** -0.5)


@dataclass(frozen=True, kw_only=True)
class WeightedConvOptions:
    """Options of `WeightedConvFactory`: the options of `AWConv2D`, with the prefix `aw_`."""

    aw_variant: AWVariant = "expand"
    aw_pool: Pool = "adaptive"
    aw_reduction: int = 16
    aw_residual: bool = True
    aw_gate_scale: float | None = None
    aw_implementation: str = "auto"


@dataclass(frozen=True, kw_only=True)
class WeightedConvFactory(WeightedConvOptions):
    """Factory of `AWConv2D` with its options."""

    def __call__(
        self,
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
    ) -> nnx.Module:
        """Build the convolution of one block, see `ConvFactory`.

        Raises:
            ValueError: options that the layer refuses.
        """
        return AWConv2D(
            in_features,
            out_features,
            kernel_size,
            strides=strides,
            groups=groups,
            variant=self.aw_variant,
            pool=self.aw_pool,
            reduction=self.aw_reduction,
            residual=self.aw_residual,
            gate_scale=self.aw_gate_scale,
            implementation=self.aw_implementation,
            kernel_init=he_normal_fan_out,
            dtype=dtype,
            param_dtype=param_dtype,
            rngs=rngs,
        )


@dataclass(frozen=True, kw_only=True)
class AugmentedWeightedConvFactory(AugmentedConvFactory, WeightedConvOptions):
    """Factory of `AAConv2D` whose convolutions are `AWConv2D`, with the options of both."""

    convolution: ConvFactory = field(init=False, default=plain_conv)

    def __post_init__(self) -> None:
        own = {each.name: getattr(self, each.name) for each in fields(WeightedConvOptions)}
        object.__setattr__(self, "convolution", WeightedConvFactory(**own))  # for a frozen dataclass
