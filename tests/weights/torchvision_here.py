"""torchvision's detection, where it is installed, its operators in Python where those of the package do not load."""

import importlib.util
import sys

import numpy as np
import pytest


def torchvision_detection():
    """Return `torchvision.models.detection`; skip the test where torch or torchvision is not installed."""
    for name in ("torch", "torchvision"):
        if importlib.util.find_spec(name) is None:
            pytest.skip(f"needs {name}")
    import torch

    try:
        import torchvision
    except RuntimeError:  # "operator torchvision::nms does not exist": compiled for another version of torch
        _declare(torch)
        import torchvision
    if not torchvision.extension._has_ops():
        torchvision.extension._has_ops = lambda: True
        _declare(torch)
        # torchvision's own form in Python lacks the operator's rule of what lies outside of a map.
        sys.modules["torchvision.ops.roi_align"]._roi_align = _roi_align
    from torchvision.models import detection

    return detection


def _declare(torch):
    """Declare the operators that torchvision's modules name, and write the one that its detectors need."""
    for name, signature in (
        ("nms", "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"),
        ("qnms", "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"),
    ):
        if not hasattr(torch.ops.torchvision, name):
            torch.library.define(f"torchvision::{name}", signature)
    if not torch._C._dispatch_has_kernel_for_dispatch_key("torchvision::nms", "CPU"):
        torch.library.impl("torchvision::nms", "CPU")(_nms)


def _nms(boxes, scores, iou_threshold):
    import torch

    rows = boxes.double().numpy()
    left = list(np.argsort(-scores.numpy(), kind="stable"))
    kept = []
    while left:
        best = left.pop(0)
        kept.append(best)
        left = [other for other in left if iou(rows[best], rows[other]) <= iou_threshold]
    return torch.as_tensor(np.asarray(kept, np.int64))


def _roi_align(maps, rois, scale, height, width, ratio, aligned):
    """Return RoIAlign by the rules of the operator in C++, of `ratio` samples along each side of a bin."""
    import torch

    maps, rois, offset = maps.numpy(), rois.numpy(), 0.5 if aligned else 0.0
    pooled = np.zeros((len(rois), maps.shape[1], height, width), np.float32)
    for i, (image, *box) in enumerate(rois):
        box = np.asarray(box, np.float32) * np.float32(scale) - np.float32(offset)
        sides = box[2:] - box[:2] if aligned else np.maximum(box[2:] - box[:2], 1)
        weights = []
        for start, side, bins, length in zip(box[1::-1], sides[::-1], (height, width), maps.shape[2:], strict=True):
            places = start + (np.arange(bins * ratio, dtype=np.float32) + np.float32(0.5)) * (side / (bins * ratio))
            there, places = (places >= -1) & (places <= length), np.clip(places, 0, length - 1)
            hats = np.maximum(1 - np.abs(places[:, None] - np.arange(length)), 0) * there[:, None]
            weights.append(hats.reshape(bins, ratio, length).mean(1))
        pooled[i] = np.einsum("yh,chw,xw->cyx", weights[0], maps[int(image)], weights[1], optimize=True)
    return torch.as_tensor(pooled)


def iou(a, b):
    """Return the intersection over union of two boxes."""
    sides = [max(min(a[i + 2], b[i + 2]) - max(a[i], b[i]), 0.0) for i in (0, 1)]
    shared = sides[0] * sides[1]
    union = sum((box[2] - box[0]) * (box[3] - box[1]) for box in (a, b)) - shared
    return shared / union if union > 0 else 0.0
