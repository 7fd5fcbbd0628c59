"""torchvision's detection, where it is installed, its operators in Python where those of the package do not load."""

import importlib.util

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


def iou(a, b):
    """Return the intersection over union of two boxes."""
    sides = [max(min(a[i + 2], b[i + 2]) - max(a[i], b[i]), 0.0) for i in (0, 1)]
    shared = sides[0] * sides[1]
    union = sum((box[2] - box[0]) * (box[3] - box[1]) for box in (a, b)) - shared
    return shared / union if union > 0 else 0.0
