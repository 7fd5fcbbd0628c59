"""Boxes by the definition, one pair at a time in float64: overlaps, greedy suppression, matching."""

import numpy as np


def sides(box, extra=0.0):
    return max(box[2] - box[0] + extra, 0.0), max(box[3] - box[1] + extra, 0.0)


def area(box, extra=0.0):
    return np.prod(sides(box, extra))


def quotient(a, b):
    return a / b if b > 0 else 0.0


def overlap(a, b, kind="iou", extra=0.0):
    a, b = (np.asarray(box, np.float64) for box in (a, b))
    shared = area([max(a[0], b[0]), max(a[1], b[1]), min(a[2], b[2]), min(a[3], b[3])], extra)
    if kind == "ioa":
        return quotient(shared, area(a, extra))
    union = area(a, extra) + area(b, extra) - shared
    iou = quotient(shared, union)
    if kind == "iou":
        return iou
    around = area([min(a[0], b[0]), min(a[1], b[1]), max(a[2], b[2]), max(a[3], b[3])], extra)
    return iou - quotient(around - union, around)


def overlaps(a, b, kind="iou", extra=0.0):
    return np.array([[overlap(one, other, kind, extra) for other in b] for one in a]).reshape(len(a), len(b))


def pairs(boxes, extra=0.0):
    """Return the IoU of all pairs of boxes, at once."""
    low, high = boxes[:, None].astype(np.float64), boxes[None].astype(np.float64)
    across, down = (
        np.maximum(np.minimum(low[..., k + 2], high[..., k + 2]) - np.maximum(low[..., k], high[..., k]) + extra, 0)
        for k in (0, 1)
    )
    own = np.maximum(boxes[:, 2:].astype(np.float64) - boxes[:, :2] + extra, 0).prod(1)
    union = own[:, None] + own[None] - across * down
    return across * down / np.where(union > 0, union, 1)


def suppressed(iou, scores, threshold, most, classes=None, valid=None):
    """Return the indices kept by greedy suppression, given all overlaps."""
    number = len(scores)
    classes = np.zeros(number) if classes is None else classes
    left = [i for i in range(number) if not np.isnan(scores[i]) and (valid is None or valid[i])]
    kept = []
    while left and len(kept) < most:
        best = min(left, key=lambda i: (-scores[i], i))
        kept.append(best)
        left = [i for i in left if i != best and not (iou[best, i] > threshold and classes[i] == classes[best])]
    return kept


def matched(iou, valid, foreground, background, forced):
    """Return the index of the object of each anchor, given the overlaps [objects, anchors]."""
    objects = [g for g in range(len(valid)) if valid[g]]
    result = []
    for a in range(iou.shape[1]):
        best = min(objects, key=lambda g: (-iou[g, a], g), default=None)
        if best is None or iou[best, a] < background:
            result.append(-1)
        else:
            result.append(best if iou[best, a] >= foreground else -2)
    if forced == "best_anchor":
        for g in reversed(objects):  # the lower index comes last and so has its way
            if iou[g].max() > 0:
                result[int(np.argmax(iou[g]))] = g
    if forced == "low_quality":
        for g in objects:
            for a in np.flatnonzero((iou[g] == iou[g].max()) & (iou[g] > 0)):
                result[a] = min(objects, key=lambda g: (-iou[g, a], g))
    return np.array(result)


def random_boxes(rng, number, side=12):
    """Return boxes on a small grid of whole numbers: equal ones, touching ones and some without area among them."""
    low = rng.integers(0, side, (number, 2))
    return np.concatenate([low, low + rng.integers(0, side, (number, 2))], 1).astype(np.float32)
