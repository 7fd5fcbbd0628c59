"""Options of Faster and Mask R-CNN: everything that their implementations differ in, and what two of them chose."""

import dataclasses
import math
from typing import Literal

from aa_flax.layers.box_head import HeadInit
from aa_flax.layers.fpn import ExtraFrom, PyramidInit
from aa_flax.models.detector_options import DetectorOptions
from aa_flax.models.entries import Flavor
from aa_flax.ops.max_pooling import Padding


@dataclasses.dataclass(frozen=True, kw_only=True)
class RCNNOptions(DetectorOptions):
    """Options of a `FasterRCNN` around its backbone; the defaults are torchvision's (version 1).

    Matching, sampling and losses are the training's; the network only holds what they are to be. `DetectorOptions` says
    what is frozen.
    """

    # Pyramid
    min_level: int = 2
    max_level: int = 6  # regions are looked at on the levels of which the backbone has maps, 2 to 5
    fpn_norm: bool = False
    fpn_init: PyramidInit = "fan_in"
    extra_levels_from: ExtraFrom = "pooling"
    padding: Padding = "symmetric"
    # Batch norms, and what does not learn
    batch_norm_momentum: float = 0.9
    batch_norm_epsilon: float = 0.0  # of torchvision's weights for COCO; with a backbone of ImageNet's it is 1e-5
    frozen_norms: bool = True
    frozen_stages: int = 1  # of a backbone with weights; torchvision freezes none of one without
    # Anchors
    anchor_size: float = 8.0
    anchor_ratios: tuple[float, ...] | None = (0.5, 1.0, 2.0)
    anchor_centre: float = 0.0
    anchor_stride: Literal["level", "image"] = "image"
    anchor_rounding: bool = True
    anchor_order: Literal["scale", "shape"] = "shape"
    # Region proposal network
    rpn_depth: int = 1  # 3×3 convolutions before the last ones, which are 1×1
    rpn_width: int = 256
    rpn_foreground_iou: float = 0.7  # at least
    rpn_background_iou: float = 0.3  # below; between the two an anchor is left out
    rpn_forced_matches: Literal["best_anchor", "low_quality"] | None = "low_quality"  # see aa_flax.ops.match_anchors
    rpn_samples: int = 256  # anchors of an image that the loss sees
    rpn_positive_fraction: float = 0.5  # at most
    rpn_box_loss: Literal["smooth_l1", "l1"] = "smooth_l1"
    rpn_box_loss_beta: float = 1 / 9  # where "smooth_l1" becomes linear
    rpn_normalizer: Literal["samples", "images"] = "samples"  # drawn anchors, or rpn_samples for every image
    # Proposals
    proposals_per_level: int = 1000  # before suppression
    proposals_per_level_in_training: int = 2000
    proposals: int = 1000  # after it, of all levels together
    proposals_in_training: int = 2000
    proposal_iou_threshold: float = 0.7  # above which NMS suppresses, within a level
    proposal_least_side: float = 1e-3  # of the clipped box, in pixels
    max_log_side: float | None = math.log(1000 / 16)
    # Regions
    sampling_ratio: int = 2  # samples along each side of a bin of RoIAlign
    aligned: bool = False  # whether RoIAlign takes pixel centres for half numbers
    region_size: int = 7  # bins of a region along each side
    box_head_depth: int = 2  # linear layers before the last ones
    box_head_width: int = 1024
    box_weights: tuple[float, ...] = (10.0, 10.0, 5.0, 5.0)  # of the coder, for dx, dy, dw and dh
    background: Literal["first", "last"] = "first"  # the first of num_classes columns, or a column after them
    head_init: HeadInit = "torchvision"  # initial weights of the box head and of the mask head's last layer
    # Matching, sampling and losses of regions
    truths_are_proposals: bool = True  # the objects are added to the proposals in training
    box_foreground_iou: float = 0.5  # at least; below, a region is background
    box_samples: int = 512  # regions of an image
    box_positive_fraction: float = 0.25  # at most
    box_loss: Literal["smooth_l1", "l1"] = "smooth_l1"
    box_loss_beta: float = 1 / 9
    # Detections
    score_threshold: float | None = 0.05
    box_least_side: float = 1e-2  # of the clipped box, in pixels

    def __post_init__(self) -> None:
        self.require_at_least(
            rpn_depth=0,
            rpn_width=1,
            rpn_samples=1,
            rpn_box_loss_beta=0,
            proposals_per_level=1,
            proposals_per_level_in_training=1,
            proposals=1,
            proposals_in_training=1,
            proposal_least_side=0,
            sampling_ratio=0,
            region_size=1,
            box_head_depth=0,
            box_head_width=1,
            box_samples=1,
            box_loss_beta=0,
            box_least_side=0,
        )
        self.require_share("rpn_positive_fraction", "proposal_iou_threshold", "box_positive_fraction")
        self.require_share("box_foreground_iou")
        self.require_thresholds("rpn_foreground_iou", "rpn_background_iou")
        for samples, share in (("rpn_samples", "rpn_positive_fraction"), ("box_samples", "box_positive_fraction")):
            number, fraction = getattr(self, samples), getattr(self, share)
            if int(number * fraction) < 1:
                raise ValueError(
                    f"{samples} is {number}, of which {share} {fraction} leaves none with an object: nothing would be "
                    "learnt of boxes"
                )
        if len(self.box_weights) != 4 or not all(weight > 0 for weight in self.box_weights):
            raise ValueError(f"box_weights must be four numbers above 0, got {self.box_weights}")
        super().__post_init__()

    @property
    def unused_columns(self) -> int:
        """Return how many columns of class scores precede those of the data set's classes."""
        return int(self.background == "first")

    def score_columns(self, num_classes: int) -> int:
        """Return how many columns the class scores of a network with `num_classes` have, background included."""
        return num_classes + int(self.background == "last")

    def background_column(self, num_classes: int) -> int:
        """Return the column of background among the class scores of a network with `num_classes`."""
        return 0 if self.background == "first" else num_classes


@dataclasses.dataclass(frozen=True, kw_only=True)
class MaskRCNNOptions(RCNNOptions):
    """Options of a `MaskRCNN` around its backbone."""

    mask_region_size: int = 14  # masks are twice as large
    mask_head_depth: int = 4
    mask_head_width: int = 256
    mask_targets: Literal["soft", "hard"] = "soft"  # means over the bins of the object's mask, or whether >= 0.5

    def __post_init__(self) -> None:
        self.require_at_least(mask_region_size=1, mask_head_depth=0, mask_head_width=1)
        super().__post_init__()


FLAVORS = {
    "torchvision": Flavor(91, {}),
    "detectron2": Flavor(
        80,
        dict(
            batch_norm_epsilon=1e-5,
            anchor_stride="level",
            anchor_rounding=False,
            anchor_order="scale",
            rpn_box_loss="l1",
            rpn_normalizer="images",
            proposals_in_training=1000,
            proposal_least_side=1e-30,  # boxes without area fall
            aligned=True,
            background="last",
            head_init="detectron2",
            box_loss="l1",
            box_least_side=0.0,
        ),
    ),
}
"""What the flavors have, by name. Of torchvision's 91 classes column 0 is background.

detectron2's RoIAlign takes as many samples as fit a bin (sampling_ratio=0), for which a program of fixed shapes has to
take the most that there may be; here it takes 2. detectron2's ResNets have the stride in the first 1×1 convolution
where their weights come from Caffe2, and in the 3×3, as here, where they come from torchvision."""
MASK_FLAVORS = {
    "torchvision": FLAVORS["torchvision"],
    "detectron2": Flavor(80, {**FLAVORS["detectron2"].options, "mask_targets": "hard"}),
}
"""The same of Mask R-CNN."""
