"""Options of RetinaNet: everything that its implementations differ in, and what two of them chose."""

import dataclasses
import math
from typing import Literal

from aa_flax.models.detector_options import DetectorOptions, anchor_values
from aa_flax.models.entries import Flavor
from aa_flax.ops.anchors import ANCHORS


@dataclasses.dataclass(frozen=True, kw_only=True)
class RetinaNetOptions(DetectorOptions):
    """Options of a `RetinaNet` around its backbone; the defaults are the paper's, by tensorflow/tpu's code.

    Matching and losses are the training's; the network only holds what they are to be.
    """

    anchor_scales: int = 2  # in an octave: 2 by the parameters and GFLOPs that the paper prints; today's code has 3
    # Heads
    head_depth: int = 4  # convolutions before the last one
    head_width: int = 256
    head_norm: bool = True  # a batch norm after each of them, with statistics, scale and bias of each level's own
    prior: float = 0.01  # the probability of every class at first
    unused_columns: int = 0  # columns of class scores before those of the data set's classes; torchvision has one
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
    # Detections; max_log_side is log(1000 / 16) in the loss "giou" if it is None
    candidates: int = 5000  # pairs of anchor and class that NMS sees
    candidates_per_level: bool = False  # whether as many of each level
    nms_pixel_offset: float = 1.0  # added to widths and heights by NMS
    clip: bool = False  # boxes to their image

    def __post_init__(self) -> None:
        self.require_at_least(head_width=1, candidates=1, unused_columns=0, head_depth=0, box_loss_delta=0)
        if not 0 < self.prior < 1:
            raise ValueError(f"prior must be a probability between 0 and 1, got {self.prior}")
        self.require_thresholds("foreground_iou", "background_iou")
        super().__post_init__()

    @property
    def norms_learn(self) -> bool:
        """Return whether a batch norm that has the options' epsilon learns."""
        return super().norms_learn or self.head_norm


FLAVORS = {
    "tpu": Flavor(90, {"pool_padding": "same", "zero_init_residual": True}),
    "torchvision": Flavor(
        91,
        dict(
            fpn_norm=False,
            fpn_init="fan_in",
            unused_columns=1,
            padding="symmetric",
            head_norm=False,
            batch_norm_momentum=0.9,
            batch_norm_epsilon=0.0,  # of the published weights; with a backbone of ImageNet's it is 1e-5
            frozen_norms=True,
            frozen_stages=1,  # of a backbone with weights; torchvision freezes none of one without
            **anchor_values(ANCHORS["torchvision"]),
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
