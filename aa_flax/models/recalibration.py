"""Factories of the modules that scale a map, after a residual branch or after a stage."""

from dataclasses import dataclass
from typing import Any

from flax import nnx

from aa_flax.layers import BAM, CBAM, GALA, GatherExcite, SqueezeExcite
from aa_flax.layers.bam import Combine
from aa_flax.layers.gala import Squash
from aa_flax.layers.gather_excite import Variant


def no_recalibration(
    features: int, *, map_shape: tuple[int, ...], dtype: Any, param_dtype: Any, rngs: nnx.Rngs
) -> None:
    """Build no module, so that the map stays as it is; see `RecalibrationFactory`."""
    return


@dataclass(frozen=True, kw_only=True)
class SqueezeExciteFactory:
    """Factory of `SqueezeExcite` with its options."""

    reduction: int = 16
    squeeze_excite_bias: bool = True

    def __call__(self, features: int, *, map_shape: tuple[int, int], **arrays: Any) -> nnx.Module:
        """Build the module; see `RecalibrationFactory`."""
        return SqueezeExcite(features, reduction=self.reduction, use_bias=self.squeeze_excite_bias, **arrays)


@dataclass(frozen=True, kw_only=True)
class GatherExciteFactory:
    """Factory of `GatherExcite` with its options; by default the variant without parameters over the whole map."""

    variant: Variant = "theta_minus"
    extent: int = 0
    reduction: int = 16

    def __call__(self, features: int, *, map_shape: tuple[int, int], **arrays: Any) -> nnx.Module:
        """Build the module; see `RecalibrationFactory`."""
        options: dict[str, Any] = dict(variant=self.variant, extent=self.extent, reduction=self.reduction)
        return GatherExcite(features, map_shape=map_shape, **options, **arrays)


@dataclass(frozen=True, kw_only=True)
class BAMFactory:
    """Factory of `BAM` with its options."""

    reduction: int = 16
    combine: Combine = "add"
    dilation: int = 4

    def __call__(self, features: int, *, map_shape: tuple[int, int], **arrays: Any) -> nnx.Module:
        """Build the module; see `RecalibrationFactory`."""
        return BAM(features, reduction=self.reduction, combine=self.combine, dilation=self.dilation, **arrays)


@dataclass(frozen=True, kw_only=True)
class CBAMFactory:
    """Factory of `CBAM` with its options."""

    reduction: int = 16
    cbam_bias: bool = True
    gate_scale_init: float = 0.0

    def __call__(self, features: int, *, map_shape: tuple[int, int], **arrays: Any) -> nnx.Module:
        """Build the module; see `RecalibrationFactory`."""
        options: dict[str, Any] = dict(use_bias=self.cbam_bias, gate_scale_init=self.gate_scale_init)
        return CBAM(features, reduction=self.reduction, **options, **arrays)


@dataclass(frozen=True, kw_only=True)
class GALAFactory:
    """Factory of `GALA` with its options."""

    reduction: int = 16
    squash: Squash = "tanh"
    extra_conv: bool = False

    def __call__(self, features: int, *, map_shape: tuple[int, int], **arrays: Any) -> nnx.Module:
        """Build the module; see `RecalibrationFactory`."""
        return GALA(features, reduction=self.reduction, squash=self.squash, extra_conv=self.extra_conv, **arrays)
