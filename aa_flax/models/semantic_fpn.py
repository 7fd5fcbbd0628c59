"""Semantic FPN (Kirillov et al., 2019) around any backbone, as mmsegmentation has it."""

from dataclasses import dataclass
from typing import Any

from aa_flax.layers.fpn_head import FPNHead
from aa_flax.layers.norm import NormFactory
from aa_flax.models.entries import Family, Flavor
from aa_flax.models.registry import register_family
from aa_flax.models.segmenter import Segmenter, SegmenterOptions


@dataclass(frozen=True, kw_only=True)
class SemanticFPNOptions(SegmenterOptions):
    """Options of a `SemanticFPN` around its backbone; the defaults are those of mmsegmentation."""

    auxiliary_head: bool = False  # a second classifier of the map of stride 16, for training only
    fpn_width: int = 256  # channels of the pyramid's maps
    head_width: int = 128  # channels of the convolutions on each level and of their sum

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("fpn_width", "head_width"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")


class SemanticFPN(Segmenter):
    """A segmentation network that sums the levels of a feature pyramid (`aa_flax.layers.fpn_head`).

    Around ResNet-50 with 150 classes it has 28.5 million parameters: 3,344,384 of the pyramid, 1,643,158 of the head
    and its classifier, 23,508,032 of the backbone.
    """

    def _make_head(self, options: Any, channels: dict[int, int], *, norm: NormFactory, **arrays: Any) -> FPNHead:
        return FPNHead(channels, fpn_width=options.fpn_width, width=options.head_width, norm=norm, **arrays)


register_family(
    Family(
        prefix="semantic_fpn_",
        task="segmentation",
        network=SemanticFPN,
        options=SemanticFPNOptions,
        flavors={"mmsegmentation": Flavor(150, {})},
        strides=(4, 8, 16, 32),
        hidden=frozenset(),
        image_size=(512, 512),
    )
)
