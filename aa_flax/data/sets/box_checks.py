"""Checks of the boxes of a data set before its photographs are stored.

A box that is negative, that has a number which is none, or that lies wholly outside is an error. One without area is
dropped, and one that reaches beyond its photograph is stored as annotated, because scores are taken with it as it is
(targets of training are clipped to what is seen); both are counted.
"""

import contextlib
import math
from collections.abc import Iterator
from pathlib import Path

from aa_flax.data.errors import DataError
from aa_flax.data.sets.annotations import Annotated, Annotation, Photo
from aa_flax.data.sets.findings import Findings
from aa_flax.data.sets.stored_image import announced_sizes, upright_size

_AS_CORNERS = 0.95
"""The least part of boxes that lie inside when read as corners, in a file that has corners."""
_BEYOND = 0.1
"""The least part of those that reach beyond when read as COCO means them. A right file has hardly any."""


def check_boxes(data: Annotated, findings: Findings) -> None:
    """Add what is wrong with the boxes to the findings, and drop those without area."""
    wrong = _files_with_corners(data, findings)
    for photo, size in _sized(data):
        if photo.source in wrong:
            continue
        if photo.size and any(_reaches_beyond(each, size) for each in photo.objects):
            # Boxes that leave a photograph may be right, and what is said of its size wrong.
            with contextlib.suppress(DataError):  # a damaged file, which is found when it is to be stored
                if fault := size_fault(photo, *announced_sizes(photo.path)):
                    findings.fault("sizes", fault)
                    continue
        kept = []
        for each in photo.objects:
            place = f"{photo.source}: {data.unit} {each.number} ({photo.name})"
            if _has_area(each, size, place, findings):
                kept.append(each)
        photo.objects = kept


def size_fault(photo: Photo, upright: tuple[int, int], stored: tuple[int, int]) -> str:
    """Return what is wrong with the size that a photograph's annotations say it has, "" if nothing is.

    Args:
        photo: the photograph.
        upright: the (height, width) of its file as a viewer shows it.
        stored: the same as the file stores it, before its metadata turn it.
    """
    if photo.size in (None, upright, stored):
        return ""
    assert photo.size is not None
    said, own = (f"{size[1]} × {size[0]}" for size in (photo.size, upright))
    swapped = ", with width and height swapped" if photo.size == upright[::-1] else ""
    return f"{photo.source}: {photo.name} is said to be {said} (width × height), and {photo.path} is {own}{swapped}"


def _reaches_beyond(each: Annotation, size: tuple[float, float]) -> bool:
    """Return whether a box leaves a photograph of a (height, width) by more than rounding."""
    x1, y1, x2, y2 = each.box
    return max(-x1, -y1, x2 - size[1], y2 - size[0]) > 1


def _sized(data: Annotated) -> Iterator[tuple[Photo, tuple[float, float]]]:
    """Yield each photograph that has objects with the height and width of what its boxes refer to."""
    for split in data.splits.values():
        for photo in split.photos:
            if data.relative and photo.objects:
                yield photo, (1.0, 1.0)
            elif photo.objects:
                try:
                    height, width = photo.size or upright_size(photo.path)
                except DataError:  # a damaged file, which is found when it is to be stored
                    continue
                yield photo, (float(height), float(width))


def _files_with_corners(data: Annotated, findings: Findings) -> set[Path]:
    """Return the files whose boxes are corners where COCO has width and height; each is a fault."""
    counts: dict[Path, list[int]] = {}  # boxes, those inside as corners, those beyond as they are meant
    for photo, (height, width) in _sized(data) if data.unit == "annotation" else ():
        of_file = counts.setdefault(photo.source, [0, 0, 0])
        for each in photo.objects:
            x1, y1, x2, y2 = each.box
            right, lower = x2 - x1, y2 - y1  # what the file has as width and height
            of_file[0] += 1
            of_file[1] += 0 <= x1 < right <= width + 1 and 0 <= y1 < lower <= height + 1
            of_file[2] += x2 > 1.02 * width + 1 or y2 > 1.02 * height + 1
    wrong = set()
    for source, (boxes, as_corners, beyond) in counts.items():
        if boxes and as_corners >= _AS_CORNERS * boxes and beyond >= max(1, _BEYOND * boxes):
            wrong.add(source)
            findings.fault(
                "corners",
                f"{source}: the boxes are x1, y1, x2, y2, expected x, y, width, height as COCO has them: {beyond:,} of "
                f"{boxes:,} reach beyond their photographs as they stand, and as corners {as_corners:,} lie inside",
            )
    return wrong


def _has_area(each: Annotation, size: tuple[float, float], place: str, findings: Findings) -> bool:
    """Return whether a box has an area, and add what is wrong with it to the findings."""
    x1, y1, x2, y2 = each.box
    height, width = size
    shown = f"the box x1, y1, x2, y2 = {', '.join(f'{value:g}' for value in each.box)}"
    if not all(map(math.isfinite, each.box)):
        findings.fault("boxes that are no numbers", f"{place}: {shown}, expected finite numbers")
    elif x2 < x1 or y2 < y1:
        findings.fault("negative boxes", f"{place}: {shown} has a negative width or height")
    elif x2 == x1 or y2 == y1:
        findings.note("boxes without area, dropped", place)
        return False
    elif x2 <= 0 or y2 <= 0 or x1 >= width or y1 >= height:
        findings.fault("boxes outside", f"{place}: {shown} lies outside its photograph of {width:g} × {height:g}")
    elif max(-x1, -y1, x2 - width, y2 - height) > 1e-6 * max(size):
        findings.note("boxes that reach beyond their photographs, stored as annotated", place)
    return True
