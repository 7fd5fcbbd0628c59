"""Options of RetinaNet: everything that its implementations differ in, and what two of them chose."""

import dataclasses
import math
import re
from numbers import Integral
from typing import Any, Literal

import numpy as np
from jaxtyping import Float

from aa_flax.layers.fpn import ExtraFrom
from aa_flax.models.entries import Flavor
from aa_flax.ops.anchors import ANCHORS, AnchorOptions, anchor_boxes
from aa_flax.ops.max_pooling import Padding


@dataclasses.dataclass(frozen=True, kw_only=True)
class RetinaNetOptions:
    """Options of a `RetinaNet` around its backbone; the defaults are the paper's, by tensorflow/tpu's code.

    Matching and losses are the training's; the network only holds what they are to be.
    """

    # Pyramid
    min_level: int = 3  # level l has a stride of 2**l
    max_level: int = 7
    fpn_width: int = 256
    fpn_norm: bool = True  # a batch norm of each level's own at the end
    extra_levels_from: ExtraFrom = "pyramid"  # what the first extra level is made of: P5 or, with "backbone", C5
    padding: Padding = "same"  # of the extra levels' convolutions
    # Heads
    head_depth: int = 4  # convolutions before the last one
    head_width: int = 256
    head_norm: bool = True  # a batch norm after each of them, with statistics, scale and bias of each level's own
    prior: float = 0.01  # the probability of every class at first
    unused_columns: int = 0  # columns of class scores before those of the data set's classes; torchvision has one
    # Batch norms of backbone, pyramid and heads; gates of attention modules keep their own
    batch_norm_momentum: float = 0.997
    batch_norm_epsilon: float = 1e-4
    frozen_norms: bool = False  # those of the backbone use their running statistics and do not learn
    frozen_stem: bool = False  # the first convolution does not learn; in tensorflow/tpu's code it never does
    # Anchors: see aa_flax.ops.anchors.AnchorOptions
    anchor_size: float = 4.0  # side of the first scale, in strides
    anchor_scales: int = 2  # in an octave: 2 by the parameters and GFLOPs that the paper prints; today's code has 3
    anchor_pairs: tuple[tuple[float, ...], ...] = ((1.0, 1.0), (1.4, 0.7), (0.7, 1.4))  # factors of width and height
    anchor_ratios: tuple[float, ...] | None = None  # height / width, in the place of the pairs
    anchor_centre: float = 0.5  # in strides from the corner of the cell
    anchor_stride: Literal["level", "image"] = "level"
    anchor_truncation: bool = False
    anchor_rounding: bool = False
    anchor_order: Literal["scale", "shape"] = "scale"
    # Matching
    foreground_iou: float = 0.5  # at least
    background_iou: float = 0.5  # below; between the two an anchor is left out
    forced_matches: Literal["best_anchor", "low_quality"] | None = "best_anchor"  # see aa_flax.ops.match_anchors
    # Losses
    focal_alpha: float = 0.25
    focal_gamma: float = 1.5
    box_loss: Literal["huber", "smooth_l1", "l1", "giou"] = "huber"  # of the four numbers, or of the boxes they give
    box_loss_delta: float = 0.1  # where "huber" or "smooth_l1" becomes linear
    box_loss_weight: float = 50.0  # of the mean over the four numbers of a box, or of "giou"
    normalizer: Literal["batch", "image", "device", "running"] = "batch"  # see aa_flax.tasks.detection_losses.shares
    # Detections
    candidates: int = 5000  # pairs of anchor and class that NMS sees
    candidates_per_level: bool = False  # whether as many of each level
    score_threshold: float | None = None  # scores must exceed it
    iou_threshold: float = 0.5  # above which NMS suppresses
    nms_pixel_offset: float = 1.0  # added to widths and heights by NMS
    max_detections: int = 100
    max_log_side: float | None = None  # bound of the logarithm by which a side is scaled; log(1000 / 16) in "giou"
    clip: bool = False  # boxes to their image

    def __post_init__(self) -> None:
        counts = dict.fromkeys(("fpn_width", "head_width", "candidates", "max_detections"), 1)
        at_least = {
            **counts,
            "unused_columns": 0,
            "head_depth": 0,
            "batch_norm_momentum": 0,
            "batch_norm_epsilon": 0,
            "box_loss_delta": 0,
        }
        for name in ("candidates", "max_detections"):
            if not isinstance(getattr(self, name), Integral):
                raise ValueError(f"{name} must be a whole number, got {getattr(self, name)!r}")
        for name, threshold in (("score_threshold", self.score_threshold), ("iou_threshold", self.iou_threshold)):
            if threshold is not None and not 0 <= threshold <= 1:
                raise ValueError(f"{name} must lie in [0, 1], got {threshold}")
        for name, least in at_least.items():
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least}, got {getattr(self, name)}")
        if not 0 < self.prior < 1:
            raise ValueError(f"prior must be a probability between 0 and 1, got {self.prior}")
        if not 0 <= self.background_iou <= self.foreground_iou <= 1:
            raise ValueError(
                "background_iou must lie between 0 and foreground_iou, and that at most at 1, got "
                f"{self.background_iou} and {self.foreground_iou}"
            )
        learns = self.fpn_norm or self.head_norm or not self.frozen_norms
        if learns and self.batch_norm_epsilon == 0:
            raise ValueError(
                "batch_norm_epsilon must be above 0 where a batch norm learns, got 0: a channel may be constant in a "
                "batch; 1e-5 is that of ImageNet's weights"
            )
        if any(len(pair) != 2 for pair in self.anchor_pairs):
            raise ValueError(f"anchor_pairs must be factors of width and height, got {self.anchor_pairs}")
        self.anchors()  # raises what is wrong with them

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


FLAVORS = {
    "tpu": Flavor(90, {"pool_padding": "same", "zero_init_residual": True}),
    "torchvision": Flavor(
        91,
        dict(
            fpn_norm=False,
            unused_columns=1,
            padding="symmetric",
            head_norm=False,
            batch_norm_momentum=0.9,
            batch_norm_epsilon=0.0,  # of the published weights; with a backbone of ImageNet's it is 1e-5
            frozen_norms=True,
            **{
                ours: getattr(ANCHORS["torchvision"], theirs)
                for ours, theirs in _OF_ANCHORS.items()
                if ours != "anchor_pairs"
            },
            background_iou=0.4,
            forced_matches="low_quality",
            focal_gamma=2.0,
            box_loss="l1",
            box_loss_weight=4.0,  # the sum over the four numbers
            normalizer="image",
            candidates=1000,
            candidates_per_level=True,
            score_threshold=0.05,
            nms_pixel_offset=0.0,
            max_detections=300,
            max_log_side=math.log(1000 / 16),
            clip=True,
        ),
    ),
}
"""What the flavors have, by name: tensorflow/tpu's of Bello et al. (2019), and torchvision's first version, of which
column 0 of the 91 classes is nothing's and competes with the others."""
