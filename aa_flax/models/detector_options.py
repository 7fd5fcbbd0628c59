"""Options that detectors on a feature pyramid share: levels, batch norms, what is frozen, anchors, suppression."""

import dataclasses
import math
import re
from collections.abc import Mapping
from numbers import Integral
from typing import Any, Literal

import numpy as np
from jaxtyping import Float

from aa_flax.layers.fpn import ExtraFrom, PyramidInit
from aa_flax.ops.anchors import AnchorOptions, anchor_boxes
from aa_flax.ops.max_pooling import Padding


@dataclasses.dataclass(frozen=True, kw_only=True)
class DetectorOptions:
    """Options of a detector around its backbone; each kind of detector has defaults and options of its own.

    What is frozen gets no gradient, no weight decay and no new statistics. `frozen_norms` are the backbone's own batch
    norms: those inside the gates of attention modules (AW-convolution, BAM, CBAM, GALA, gather-excite) are not among
    them, and keep learning, with statistics of the training batch. With two images on a device these are noisy if
    computed per device (`parallel.batch_norm_groups`); computed over the global batch, the default, they are those of
    all devices' images. A stage that `frozen_stages` counts is frozen whole, the gates inside it too.
    """

    # Pyramid
    min_level: int = 3  # level l has a stride of 2**l
    max_level: int = 7
    fpn_width: int = 256
    fpn_norm: bool = True  # a batch norm of each level's own at the end
    fpn_init: PyramidInit = "glorot"  # of the convolutions: Glorot's uniform, or "fan_in", uniform of variance 1 / fan
    extra_levels_from: ExtraFrom = "pyramid"  # what the first extra level is made of, see aa_flax.layers.FPN
    padding: Padding = "same"  # of the extra levels' convolutions
    # Batch norms of backbone, pyramid and heads; gates of attention modules keep their own
    batch_norm_momentum: float = 0.997
    batch_norm_epsilon: float = 1e-4
    frozen_norms: bool = False  # those of the backbone use their running statistics and do not learn
    frozen_stem: bool = False  # the first convolution does not learn; in tensorflow/tpu's code it never does
    frozen_stages: int = 0  # with n above 0: the stem, its norm, and the first n stages do not learn
    # Anchors: see aa_flax.ops.anchors.AnchorOptions
    anchor_size: float = 4.0  # side of the first scale, in strides
    anchor_scales: int = 1  # in an octave
    anchor_pairs: tuple[tuple[float, ...], ...] = ((1.0, 1.0), (1.4, 0.7), (0.7, 1.4))  # factors of width and height
    anchor_ratios: tuple[float, ...] | None = None  # height / width, in the place of the pairs
    anchor_centre: float = 0.5  # in strides from the corner of the cell
    anchor_stride: Literal["level", "image"] = "level"
    anchor_truncation: bool = False
    anchor_rounding: bool = False
    anchor_order: Literal["scale", "shape"] = "scale"
    # Detections
    score_threshold: float | None = None  # scores must exceed it
    iou_threshold: float = 0.5  # above which NMS suppresses
    max_detections: int = 100
    max_log_side: float | None = None  # bound of the logarithm by which a side is scaled

    def __post_init__(self) -> None:
        self.require_at_least(fpn_width=1, max_detections=1, batch_norm_momentum=0, batch_norm_epsilon=0)
        self.require_at_least(frozen_stages=0)
        self.require_share("score_threshold", "iou_threshold")
        if self.norms_learn and self.batch_norm_epsilon == 0:
            raise ValueError(
                "batch_norm_epsilon must be above 0 where a batch norm learns, got 0: a channel may be constant in a "
                "batch; 1e-5 is that of ImageNet's weights"
            )
        if any(len(pair) != 2 for pair in self.anchor_pairs):
            raise ValueError(f"anchor_pairs must be factors of width and height, got {self.anchor_pairs}")
        self.anchors()  # raises what is wrong with them

    @property
    def norms_learn(self) -> bool:
        """Return whether a batch norm that has the options' epsilon learns."""
        return self.fpn_norm or not self.frozen_norms

    def require_at_least(self, **least: int) -> None:
        """Raise ValueError unless each option is at least the number given, and whole if its type is."""
        types = {field.name: field.type for field in dataclasses.fields(self)}
        for name, bound in least.items():
            value = getattr(self, name)
            if types[name] in (int, "int") and not isinstance(value, Integral):
                raise ValueError(f"{name} must be a whole number, got {value!r}")
            if value < bound:
                raise ValueError(f"{name} must be at least {bound}, got {value}")

    def require_share(self, *names: str) -> None:
        """Raise ValueError unless each of these options is None or lies in [0, 1]."""
        for name in names:
            value = getattr(self, name)
            if value is not None and not 0 <= value <= 1:
                raise ValueError(f"{name} must lie in [0, 1], got {value}")

    def require_thresholds(self, foreground: str, background: str) -> None:
        """Raise ValueError unless the options of these names are overlaps, that of the background at most as high."""
        low, high = getattr(self, background), getattr(self, foreground)
        if not 0 <= low <= high <= 1:
            raise ValueError(
                f"{background} must lie between 0 and {foreground}, and that at most at 1, got {low} and {high}"
            )

    def anchors(self) -> AnchorOptions:
        """Return the options of the anchors."""
        given: dict[str, Any] = {theirs: getattr(self, ours) for ours, theirs in _OF_ANCHORS.items()}
        if self.anchor_ratios is not None:
            given["pairs"] = None
        try:
            return AnchorOptions(**given)
        except ValueError as error:
            message = str(error)
            for ours, theirs in _OF_ANCHORS.items():
                message = re.sub(rf"\b{theirs}\b", ours, message)
            raise ValueError(message) from None

    @property
    def levels(self) -> tuple[int, ...]:
        """Return the levels of the pyramid, finest first."""
        return tuple(range(self.min_level, self.max_level + 1))

    def map_sizes(self, height: int, width: int) -> list[tuple[int, int]]:
        """Return the height and width of each level's map for images of that size in pixels."""
        return [(math.ceil(height / 2**level), math.ceil(width / 2**level)) for level in self.levels]

    def level_anchors(self, height: int, width: int) -> list[int]:
        """Return how many anchors each level has in images of that size in pixels."""
        return [rows * columns * self.anchors().per_place for rows, columns in self.map_sizes(height, width)]

    def anchor_boxes(self, height: int, width: int) -> Float[np.ndarray, "anchors 4"]:
        """Return the anchors of images of that size in pixels, in the order level, row, column, anchor of the place."""
        sizes = self.map_sizes(height, width)
        return anchor_boxes(sizes, (height, width), self.anchors(), first_level=self.min_level)


_OF_ANCHORS = {
    "anchor_size": "base_size",
    "anchor_scales": "num_scales",
    "anchor_pairs": "pairs",
    "anchor_ratios": "ratios",
    "anchor_centre": "centre",
    "anchor_stride": "stride",
    "anchor_truncation": "truncate_sizes",
    "anchor_rounding": "round_corners",
    "anchor_order": "order",
}
"""The options of anchors, and what `AnchorOptions` calls them."""


def anchor_values(anchors: AnchorOptions) -> Mapping[str, Any]:
    """Return the values of a detector's options that give these anchors; pairs are left as they are."""
    return {ours: getattr(anchors, theirs) for ours, theirs in _OF_ANCHORS.items() if ours != "anchor_pairs"}
