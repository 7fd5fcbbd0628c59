"""Checks of the masks of a data set before its photographs are stored.

A mask that cannot be used is left out and counted, because the boxes beside it may be all that is wanted; where masks
are asked for, an object without one is an error.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from aa_flax.data.masks import counts_of, run_lengths_fault
from aa_flax.data.sets.findings import Findings
from aa_flax.json_values import to_json

RUN_LENGTHS_LEFT_OUT = "masks of run lengths that do not fit, left out"
_AREAS = 0.5
"""The least part of its mask's area, or of the annotation's, that the other has; where they differ more, it is noted.
Numbers that differ so much are another thing's, or in another unit; outlines of parts that overlap differ by less."""


def checked_segmentation(
    value: Any, size: tuple[int, int] | None, area: float | None, place: str, findings: Findings
) -> str:
    """Return the polygons or run lengths of an annotation as JSON, "" if there are none that can be used.

    Args:
        value: what the file has.
        size: the (height, width) of the photograph, if the file says it.
        area: of the annotation, if it has one.
        place: of the annotation, for messages.
        findings: where faults are noted.
    """
    if not value:
        return ""
    if isinstance(value, dict) and {"counts", "size"} <= value.keys():
        if fault := run_lengths_fault(value, size):
            findings.note(RUN_LENGTHS_LEFT_OUT, f"{place}: {fault}")
            return ""
        own = float(sum((counts_of(value["counts"]) or [])[1::2]))
        value = {"size": value["size"], "counts": value["counts"]}
    elif isinstance(value, list) and all(isinstance(each, list) for each in value):
        value = _polygons(value, place, findings)
        own = sum(map(area_of_polygon, value))
    else:
        findings.note("segmentations that are neither polygons nor run lengths, left out", place)
        return ""
    if not value:
        return ""
    if not own:
        findings.note("masks without area", place)
    elif area and min(own, area) < _AREAS * max(own, area):
        beyond = ", and reaches beyond the photograph" if isinstance(value, list) and _beyond(value, size) else ""
        findings.note("areas that are not their masks'", f"{place}: {area:g}, where its mask has {own:g}{beyond}")
    return to_json(value)


def _polygons(polygons: Sequence[Any], place: str, findings: Findings) -> list[Any]:
    """Return the polygons of an object that have three points or more; none if one has other faults."""
    for each in polygons:
        if not {*map(type, each)} <= {int, float} or not _finite(each):
            findings.note("polygons with coordinates that are no finite numbers, whose masks are left out", place)
            return []
        if len(each) % 2:
            what = f"{place}: {len(each)} numbers"
            findings.note("polygons of an odd number of coordinates, whose masks are left out", what)
            return []
    kept = [each for each in polygons if len(each) >= 6]
    if len(kept) < len(polygons):
        findings.note("polygons of fewer than 3 points, left out", place)
    return kept


def _beyond(polygons: Sequence[Sequence[int | float]], size: tuple[int, int] | None) -> bool:
    """Return whether polygons leave a photograph of (height, width); False if it is not known."""
    return size is not None and any(
        min(each) < 0 or max(each[::2]) > size[1] or max(each[1::2]) > size[0] for each in polygons
    )


def _finite(numbers: Sequence[int | float]) -> bool:
    try:
        return math.isfinite(sum(map(abs, numbers)))
    except OverflowError:  # an integer beyond all floats
        return False


def area_of_polygon(polygon: Sequence[int | float]) -> float:
    """Return the area that a polygon x1, y1, x2, y2, ... encloses, in square pixels (the shoelace formula)."""
    x, y = np.asarray(polygon, np.float64).reshape(-1, 2).T
    x, y = x - x[0], y - y[0]  # of small numbers less is rounded
    return abs(float(np.sum(x * np.roll(y, -1) - y * np.roll(x, -1)))) / 2
