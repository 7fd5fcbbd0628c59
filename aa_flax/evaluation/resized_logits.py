"""From a network's logits to the class of each pixel of a photograph, on the host, at the photograph's own size."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, UInt8

_STRIP = 1 << 22
"""Numbers that are in memory together, at most, or those of one row."""


class Plane(NamedTuple):
    """Logits, and the matrices that resize them to a photograph of h × w pixels: rows · logits · columnsᵀ."""

    logits: Float[np.ndarray, "p q classes"]
    rows: Float[np.ndarray, "h p"]
    columns: Float[np.ndarray, "w q"]


def label_map(planes: Sequence[Plane]) -> UInt8[np.ndarray, "h w"]:
    """Return the class of each pixel, of equal ones the first: where the logits are largest, resized to its own size.

    Of several planes the mean of their softmax is compared, as mmsegmentation does with several scales and mirrored
    images. Computed in float32, in strips of rows.

    Raises:
        ValueError: more than 255 classes.
    """
    classes = planes[0].logits.shape[-1]
    if classes > 255:
        raise ValueError(f"{classes} classes, expected at most 255: labels are bytes, and 255 stands for none")
    by_class = [np.ascontiguousarray(plane.logits.transpose(2, 0, 1), np.float32) for plane in planes]
    height, width = len(planes[0].rows), len(planes[0].columns)
    at_once = max(_STRIP // (width * classes), 1)
    labels = np.empty((height, width), np.uint8)
    for start in range(0, height, at_once):
        strip = slice(start, start + at_once)
        parts = [_resized(*each, strip) for each in zip(planes, by_class, strict=True)]
        if len(parts) == 1:
            scores = parts[0]
        else:
            scores = np.zeros_like(parts[0])
            for part in parts:
                np.exp(part - part.max(0), out=part)
                scores += part / part.sum(0)
        labels[strip] = _first_largest(scores)
    return labels


def _resized(
    plane: Plane, logits: Float[np.ndarray, "classes p q"], strip: slice
) -> Float[np.ndarray, "classes rows w"]:
    """Return the logits of some rows of the photograph."""
    rows = plane.rows[strip] @ logits
    # As one product: NumPy takes many times as long for one for each class.
    flat = rows.reshape(-1, rows.shape[-1]) @ plane.columns.T
    return flat.reshape(*rows.shape[:2], -1)


def _first_largest(scores: Float[np.ndarray, "classes h w"]) -> UInt8[np.ndarray, "h w"]:
    """Return what argmax(0) does, in less time."""
    best, labels = scores.max(0), np.zeros(scores.shape[1:], np.uint8)
    for number in range(len(scores) - 1, -1, -1):
        np.copyto(labels, number, where=scores[number] == best)
    return labels
