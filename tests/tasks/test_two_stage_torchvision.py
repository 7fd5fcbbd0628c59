"""Tests of the losses of both stages against torchvision's own functions, where it is installed."""

from types import SimpleNamespace

import jax
import numpy as np
import pytest
from tasks.test_two_stage import CANVAS, case, numbered
from weights.torchvision_here import torchvision_detection


@pytest.fixture(scope="module")
def step():
    """Return torchvision's modules, torch, and what a training step computes of the fixed network."""
    detection = torchvision_detection()
    import torch

    its = case("torchvision")
    _, targets, _ = its.prepare(its.batch, jax.random.key(0))
    (_, metrics), shown = its.losses(numbered(4), targets)
    means = {name: float(sum_ / count) for name, (sum_, count) in metrics.items()}
    return detection, torch, its, targets, means, np.asarray(shown)


def truths_of(its, i, torch):
    count = int(its.batch["valid"][i].sum())
    return torch.tensor(np.array(its.batch["boxes"][i, :count])), its.batch["classes"][i, :count]


def test_losses_of_proposals(step):
    detection, torch, its, targets, means, _ = step
    anchors = torch.tensor(np.array(its.task._network.anchor_boxes(*CANVAS)))
    coder = detection._utils.BoxCoder((1.0, 1.0, 1.0, 1.0))
    drawn, matches = np.asarray(targets["anchors"]), np.asarray(targets["matches"])
    labels, wanted, masks = [], [], ([], [])
    for i in range(4):
        boxes, _ = truths_of(its, i, torch)
        matcher = detection._utils.Matcher(0.7, 0.3, allow_low_quality_matches=True)
        overlaps = detection.roi_heads.box_ops.box_iou(boxes, anchors)
        found = matcher(overlaps) if len(boxes) else torch.full((len(anchors),), -1)
        for k, match in zip(drawn[i], matches[i], strict=True):
            assert match in (-2, int(found[k]))
        labels.append((found >= 0).float())
        chosen = boxes[found.clamp(0)] if len(boxes) else anchors
        wanted.append(coder.encode([chosen], [anchors])[0])
        for mask, which in zip(masks, (matches[i] >= 0, matches[i] == -1), strict=True):
            mask.append(torch.zeros(len(anchors), dtype=torch.uint8))
            mask[-1][torch.tensor(drawn[i][which]).long()] = 1
    own = SimpleNamespace(fg_bg_sampler=lambda labels: masks)
    outputs = (torch.tensor(np.array(x)) for x in (its.network.objectness, its.network.deltas.reshape(-1, 4)))
    losses = detection.rpn.RegionProposalNetwork.compute_loss(own, *outputs, labels, wanted)
    found = [means["objectness_loss"], means["proposal_loss"]]
    np.testing.assert_allclose(found, [float(loss) for loss in losses], rtol=2e-5)


def test_losses_of_regions(step):
    detection, torch, its, _, means, shown = step
    coder, by_image = detection._utils.BoxCoder((10.0, 10.0, 5.0, 5.0)), []
    for i in range(4):
        boxes, classes = truths_of(its, i, torch)
        regions = torch.tensor(shown[i][(shown[i] != 0).any(-1)])
        matcher = detection._utils.Matcher(0.5, 0.5, allow_low_quality_matches=False)
        overlaps = detection.roi_heads.box_ops.box_iou(boxes, regions)
        found = matcher(overlaps) if len(boxes) else torch.full((len(regions),), -1)
        columns = torch.tensor(np.array(classes) + 1) if len(boxes) else torch.zeros(1)
        labels = torch.where(found >= 0, columns[found.clamp(0)], 0).long()
        chosen = boxes[found.clamp(0)] if len(boxes) else regions
        outputs = its.network.box_outputs({}, regions.numpy()[None])
        logits, deltas = (torch.tensor(np.array(outputs[name][0])) for name in ("classes", "boxes"))
        wanted = coder.encode([chosen], [regions])
        losses = detection.roi_heads.fastrcnn_loss(logits, deltas.flatten(1), [labels], list(wanted))
        by_image.append([float(loss) for loss in losses])
    np.testing.assert_allclose([means["class_loss"], means["box_loss"]], np.mean(by_image, 0), rtol=3e-5)
