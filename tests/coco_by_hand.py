"""COCO's scores once more, slowly: loops over plain numbers, written from the rules, sharing no code with the library.

And the sets that tests score: COCO's own fixture, and random ones.
"""

import json
from pathlib import Path

import numpy as np

from aa_flax.data.annotated import Objects, Truth
from aa_flax.evaluation.coco_json import read_results
from aa_flax.evaluation.detections import Found

FIXTURE = Path(__file__).parent / "fixtures" / "coco_eval"
AREAS = {"": (0, 1e10), "_small": (0, 32**2), "_medium": (32**2, 96**2), "_large": (96**2, 1e10)}
OVERLAPS = [0.5 + 0.05 * k for k in range(10)]


def fixture(of="bbox"):
    """Return the truths, detections ("bbox" or "segm"), class names and category ids of COCO's fixture."""
    contents = json.loads((FIXTURE / "instances_val2014_100.json").read_text())
    ids = [category["id"] for category in contents["categories"]]
    truths = []
    for image in contents["images"]:
        own = [a for a in contents["annotations"] if a["image_id"] == image["id"]]
        boxes = np.array([a["bbox"] for a in own], np.float64).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        labels = np.array([ids.index(a["category_id"]) for a in own], np.int64)
        crowd = np.array([a["iscrowd"] == 1 for a in own], bool)
        area = np.array([a["area"] for a in own], np.float64)
        size = image["height"], image["width"]
        ids_of_objects = np.array([a["id"] for a in own], np.int64)
        segmentations = tuple(json.dumps(a["segmentation"]) for a in own)
        objects = Objects(boxes, labels, crowd, area, ids_of_objects, segmentations)
        truths.append(Truth(image["id"], image["file_name"], *size, objects))
    found = read_results((FIXTURE / f"instances_val2014_fake{of}100_results.json").read_text(), ids)
    return truths, found, [category["name"] for category in contents["categories"]], ids


def truth(image_id=1, boxes=(), labels=None, crowd=None, area=None, size=(200, 300)):
    """Return a photograph's truth; class 0, no crowds, the boxes' own areas where not given."""
    boxes = np.array(boxes, np.float64).reshape(-1, 4)
    n = len(boxes)
    areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    objects = Objects(
        boxes,
        np.array([0] * n if labels is None else labels, np.int64),
        np.array([False] * n if crowd is None else crowd, bool),
        areas if area is None else np.array(area, np.float64),
        np.zeros(n, np.int64),
    )
    return Truth(image_id, f"{image_id}.jpg", *size, objects)


def found(boxes=(), scores=(), labels=None):
    """Return detections, of class 0 if no labels are given."""
    boxes = np.array(boxes, np.float64).reshape(-1, 4)
    labels = np.array([0] * len(boxes) if labels is None else labels, np.int64)
    return Found(boxes, np.array(scores, np.float64), labels)


def random_set(rng, images=9, classes=3, side=120):
    """Return random truths and detections: right ones and others, equal scores, crowds, photographs without either."""
    truths, all_found = [], {}
    for number in rng.permutation(images * 3)[:images].tolist():
        n = int(rng.integers(0, 6))
        corners = rng.integers(0, side - 20, (n, 2))
        boxes = np.concatenate([corners, corners + rng.integers(4, 90, (n, 2))], 1).astype(np.float64)
        labels = rng.integers(0, classes, n)
        area = (boxes[:, 2:] - boxes[:, :2]).prod(1) * rng.uniform(0.4, 1, n)
        truths.append(truth(number, boxes, labels, rng.random(n) < 0.2, area))
        if rng.random() < 0.2:
            continue
        copies = np.repeat(np.arange(n), rng.integers(0, 4, n))
        near = boxes[copies] + rng.normal(0, 4, (len(copies), 4))
        far = rng.uniform(0, side, (3, 4))
        some = np.concatenate([near, far])
        some = np.concatenate([np.minimum(some[:, :2], some[:, 2:]), np.maximum(some[:, :2], some[:, 2:])], 1)
        own = np.concatenate([labels[copies], rng.integers(0, classes, 3)])
        own = np.where(rng.random(len(own)) < 0.2, rng.integers(0, classes, len(own)), own)
        all_found[number] = Found(some, rng.integers(0, 20, len(some)) / 20, own)
    return truths, all_found


def overlap(a, b, of_crowd):
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    if width <= 0 or height <= 0:
        return 0.0
    own, other = ((x2 - x1) * (y2 - y1) for x1, y1, x2, y2 in (a, b))
    return width * height / (own if of_crowd else own + other - width * height)


def scored_image(truth, found, label, least, area, most):
    """Return (score, right or wrong) of the detections that count, and how many objects there are to find."""
    low, high = area
    objects = [
        (box, crowd, bool(crowd) or not low <= size <= high)
        for box, own, crowd, size in zip(truth.boxes, truth.labels, truth.crowd, truth.area, strict=True)
        if own == label
    ]
    objects.sort(key=lambda one: one[2])
    detections = [
        (score, box) for box, own, score in zip(found.boxes, found.labels, found.scores, strict=True) if own == label
    ]
    detections.sort(key=lambda one: -one[0])
    taken, counted = set(), []
    for score, box in detections[:most]:
        best, best_overlap = None, least
        for number, (other, crowd, ignored) in enumerate(objects):
            if number in taken and not crowd:
                continue
            if best is not None and not objects[best][2] and ignored:
                break
            if (here := overlap(box, other, crowd)) >= best_overlap:
                best, best_overlap = number, here
        if best is not None:
            taken.add(best)
            if not objects[best][2]:
                counted.append((score, True))
        elif low <= (box[2] - box[0]) * (box[3] - box[1]) <= high:
            counted.append((score, False))
    return counted, sum(not ignored for *_, ignored in objects)


def precision_and_recall(truths, all_found, label, least, area=AREAS[""], most=100):
    """Return the mean of the 101 precisions and the last recall of a class, or None if it has no objects."""
    counted, total = [], 0
    for one in sorted(truths, key=lambda one: one.image_id):
        here, objects = scored_image(one, all_found.get(one.image_id, found()), label, least, area, most)
        counted += here
        total += objects
    if not total:
        return None
    counted.sort(key=lambda one: -one[0])
    right, points = 0, []
    for number, (_, is_right) in enumerate(counted, 1):
        right += is_right
        points.append((right / total, right / number))
    at = [max((p for r, p in points if r >= k / 100 - 1e-12), default=0) for k in range(101)]
    return sum(at) / 101, right / total


def scores(truths, all_found, classes, cuts=(1, 10, 100)):
    """Return the twelve numbers by name, None where there is nothing to find."""

    def mean(overlaps, area, most, which):
        some = [
            precision_and_recall(truths, all_found, k, t, AREAS[area], most) for k in range(classes) for t in overlaps
        ]
        some = [one[which] for one in some if one is not None]
        return sum(some) / len(some) if some else None

    most = cuts[-1]
    values = {"AP": mean(OVERLAPS, "", most, 0), "AP50": mean([0.5], "", most, 0), "AP75": mean([0.75], "", most, 0)}
    values |= {f"AP{area}": mean(OVERLAPS, area, most, 0) for area in AREAS if area}
    values |= {f"AR{cut}": mean(OVERLAPS, "", cut, 1) for cut in cuts}
    return values | {f"AR{area}": mean(OVERLAPS, area, most, 1) for area in AREAS if area}
