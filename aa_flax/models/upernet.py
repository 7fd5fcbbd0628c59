"""UPerNet (Xiao et al., 2018) around any backbone, as mmsegmentation has it."""

from dataclasses import dataclass
from typing import Any

from aa_flax.layers.norm import NormFactory
from aa_flax.layers.uper_head import UPerHead
from aa_flax.models.entries import Family, Flavor
from aa_flax.models.registry import register_family
from aa_flax.models.segmenter import Segmenter, SegmenterOptions


@dataclass(frozen=True, kw_only=True)
class UPerNetOptions(SegmenterOptions):
    """Options of a `UPerNet` around its backbone; the defaults are those of mmsegmentation."""

    head_width: int = 512  # channels of every map of the head
    pooling_bins: tuple[int, ...] = (1, 2, 3, 6)  # bins along each side, of each map of pyramid pooling

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.head_width < 1:
            raise ValueError(f"head_width must be at least 1, got {self.head_width}")


class UPerNet(Segmenter):
    """A segmentation network with pyramid pooling and a feature pyramid (`aa_flax.layers.uper_head`).

    Around ResNet-50 with 150 classes it has 66.5 million parameters: 40,590,486 of the head and its classifier,
    2,398,358 of the auxiliary head, 23,508,032 of the backbone.
    """

    def _make_head(self, options: Any, channels: dict[int, int], *, norm: NormFactory, **arrays: Any) -> UPerHead:
        return UPerHead(channels, width=options.head_width, bins=options.pooling_bins, norm=norm, **arrays)


register_family(
    Family(
        prefix="upernet_",
        task="segmentation",
        network=UPerNet,
        options=UPerNetOptions,
        flavors={"mmsegmentation": Flavor(150, {})},
        strides=(4, 8, 16, 32),
        hidden=frozenset(),
        image_size=(512, 512),
    )
)
