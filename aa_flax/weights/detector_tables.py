"""The key tables of detectors: torchvision's, which are around a ResNet."""

import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from aa_flax.models.faster_rcnn import FasterRCNN
from aa_flax.models.mask_rcnn import MaskRCNN
from aa_flax.ops.anchors import AnchorOptions
from aa_flax.weights.families import Family
from aa_flax.weights.rows import CONV, LINEAR, TRANSPOSED, Kind, Leaf, Row


def detector_family(model: Any, backbone: Family) -> Family:
    """Return the family of a detector: its backbone's, one name deeper, with what stands around it.

    torchvision has a detector around a ResNet only, and numbers levels and convolutions from 0.
    """
    fpn = model.fpn
    table = [
        Row(f"backbone.{row.ours}", f"backbone.body.{row.theirs}", row.kind, row.axis)
        for row in backbone.sources.get("torchvision", ())
        if row.ours not in backbone.heads
    ]
    for level in fpn.given:
        for ours, theirs in (("lateral", "inner"), ("output", "layer")):
            table.append(Row(f"fpn.{ours}{level}", f"backbone.fpn.{theirs}_blocks.{level - fpn.given[0]}.0", CONV))
    table += [Row(f"fpn.extra{level}", f"backbone.fpn.extra_blocks.p{level}", CONV) for level in fpn.extra]
    two_stages = isinstance(model, FasterRCNN)
    table += _of_regions(model) if two_stages else _of_anchors(model)
    conv, norm = (f"backbone.{template}" if template else "" for template in backbone.followed_by)
    return Family(
        {"torchvision": tuple(table)} if "torchvision" in backbone.sources else {},
        (conv, norm),
        f"backbone.{backbone.stem}",
        ("box_head.classes", "box_head.boxes", "mask_head.out") if two_stages else ("class_head.out",),
        {"torchvision": _newer_name},
    )


def _of_anchors(model: Any) -> list[Row]:
    """Return the rows of RetinaNet's heads."""
    table, anchors = [], model.options.anchors()
    for ours, theirs, out, numbers in (
        ("class_head", "head.classification_head", "cls_logits", model.num_classes),
        ("box_head", "head.regression_head", "bbox_reg", 4),
    ):
        depth = getattr(model, ours).depth
        table += [Row(f"{ours}.conv{i + 1}", f"{theirs}.conv.{i}.0", CONV) for i in range(depth)]
        table.append(Row(f"{ours}.out", f"{theirs}.{out}", _by_anchor(anchors, numbers)))
    return table


def _of_regions(model: Any) -> list[Row]:
    """Return the rows of the heads of Faster and Mask R-CNN.

    torchvision's layers for classes have background first; a network that has it last takes all but these.
    """
    anchors, head = model.options.anchors(), "roi_heads"
    table = [Row(f"rpn.conv{i + 1}", f"rpn.head.conv.{i}.0", CONV) for i in range(model.rpn.depth)]
    table.append(Row("rpn.objectness", "rpn.head.cls_logits", _by_anchor(anchors, 1)))
    table.append(Row("rpn.deltas", "rpn.head.bbox_pred", _by_anchor(anchors, 4)))
    for i in range(model.box_head.depth):
        kind = _of_maps(model.options.region_size) if i == 0 else LINEAR
        table.append(Row(f"box_head.fc{i + 1}", f"{head}.box_head.fc{i + 6}", kind))
    if model.options.background == "first":
        kind = LINEAR if model.box_head.depth else _of_maps(model.options.region_size)
        table.append(Row("box_head.classes", f"{head}.box_predictor.cls_score", kind))
        table.append(Row("box_head.boxes", f"{head}.box_predictor.bbox_pred", kind))
        table.append(Row("mask_head.out", f"{head}.mask_predictor.mask_fcn_logits", CONV))
    if isinstance(model, MaskRCNN):
        for i in range(model.mask_head.depth):
            table.append(Row(f"mask_head.conv{i + 1}", f"{head}.mask_head.{i}.0", CONV))
        table.append(Row("mask_head.upsample", f"{head}.mask_predictor.conv5_mask", TRANSPOSED))
    return table


def _by_anchor(anchors: AnchorOptions, numbers: int) -> Kind:
    """Return the kind of a convolution that has `numbers` channels for each anchor of a place.

    torchvision has an anchor's shape vary slowest. Where the network has the scale so, its anchors are in another
    order, and so are the channels.
    """
    if anchors.order == "shape" or anchors.num_scales == 1 or len(anchors.factors()) == 1:
        return CONV
    sides = len(anchors.factors()), anchors.num_scales

    def reordered(x: np.ndarray, sides: Sequence[int]) -> np.ndarray:
        return x.reshape(*x.shape[:-1], *sides, numbers).swapaxes(-3, -2).reshape(x.shape)

    def of(leaf: Leaf) -> Leaf:
        def to_ours(x: np.ndarray) -> np.ndarray:
            return reordered(leaf.to_ours(x), sides)

        def to_theirs(x: np.ndarray) -> np.ndarray:
            return leaf.to_theirs(reordered(x, sides[::-1]))

        return Leaf(leaf.name, to_ours, to_theirs)

    return {name: of(leaf) for name, leaf in CONV.items()}


def _of_maps(size: int) -> Kind:
    """Return the kind of a linear layer on maps of that height and width, flattened.

    Theirs is [out, channels * size * size], ours [size * size * channels, out].
    """

    def to_ours(x: np.ndarray) -> np.ndarray:
        return x.reshape(len(x), -1, size, size).transpose(2, 3, 1, 0).reshape(-1, len(x))

    def to_theirs(x: np.ndarray) -> np.ndarray:
        return x.reshape(size, size, -1, x.shape[-1]).transpose(3, 2, 0, 1).reshape(x.shape[-1], -1)

    return {**LINEAR, "kernel": Leaf("weight", to_ours, to_theirs)}


_OLDER = (
    (r"(fpn\.(?:inner|layer)_blocks\.\d+)\.(weight|bias)$", r"\1.0.\2"),
    (r"(rpn\.head\.conv)\.(weight|bias)$", r"\1.0.0.\2"),
)


def _newer_name(key: str) -> str:
    """Return a name of torchvision's detectors as its versions from 0.14 on have it: each convolution in a block.

    `fpn.inner_blocks.0.weight` became `fpn.inner_blocks.0.0.weight`, `rpn.head.conv.weight` became
    `rpn.head.conv.0.0.weight`, `mask_head.mask_fcn1.weight` became `mask_head.0.0.weight`, and `conv.2.weight` of a
    head of RetinaNet, which numbered activations too, `conv.1.0.weight`.
    """
    for old, new in _OLDER:
        key = re.sub(old, new, key)
    key = re.sub(r"mask_head\.mask_fcn(\d+)\.", lambda found: f"mask_head.{int(found[1]) - 1}.0.", key)
    old = r"((?:classification|regression)_head\.conv)\.(\d+)\.(weight|bias)$"
    return re.sub(old, lambda found: f"{found[1]}.{int(found[2]) // 2}.0.{found[3]}", key)
