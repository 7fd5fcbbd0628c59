"""The mathematics as pure functions on arrays."""

from aa_flax.ops.anchors import ANCHORS, AnchorOptions, anchor_boxes
from aa_flax.ops.attention_branch import attention_branch
from aa_flax.ops.box_losses import giou_loss, huber_loss, l1_loss, smooth_l1_loss
from aa_flax.ops.boxes import box_iou, clip_boxes, decode_boxes, encode_boxes
from aa_flax.ops.candidates import Candidates, top_candidates
from aa_flax.ops.convolution import convolution
from aa_flax.ops.focal_loss import sigmoid_focal_loss
from aa_flax.ops.gated_convolution import gated_convolution
from aa_flax.ops.matching import match_anchors
from aa_flax.ops.max_pooling import max_pool
from aa_flax.ops.nms import nms
from aa_flax.ops.packed_attention import packed_attention
from aa_flax.ops.proposals import Proposals, top_proposals
from aa_flax.ops.relative_attention import (
    relative_attention,
    relative_attention_2d,
    relative_attention_weights,
    relative_attention_weights_2d,
)
from aa_flax.ops.resampling import adaptive_average_pool, average_pool, resize_bilinear
from aa_flax.ops.resized_convolution import resized_convolution
from aa_flax.ops.roi_align import roi_align
from aa_flax.ops.sampling import Sample, sample
from aa_flax.ops.tables import resize_relative_table

__all__ = [
    "ANCHORS",
    "AnchorOptions",
    "Candidates",
    "Proposals",
    "Sample",
    "adaptive_average_pool",
    "anchor_boxes",
    "attention_branch",
    "average_pool",
    "box_iou",
    "clip_boxes",
    "convolution",
    "decode_boxes",
    "encode_boxes",
    "gated_convolution",
    "giou_loss",
    "huber_loss",
    "l1_loss",
    "match_anchors",
    "max_pool",
    "nms",
    "packed_attention",
    "relative_attention",
    "relative_attention_2d",
    "relative_attention_weights",
    "relative_attention_weights_2d",
    "resize_bilinear",
    "resize_relative_table",
    "resized_convolution",
    "roi_align",
    "sample",
    "sigmoid_focal_loss",
    "smooth_l1_loss",
    "top_candidates",
    "top_proposals",
]
