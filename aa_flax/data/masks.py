"""Masks of objects: COCO's polygons and run lengths, which hotcoco turns into pixels and back.

A *segmentation* is what a data set stores of an object: a JSON text of polygons [[x1, y1, x2, y2, ...], ...] or of run
lengths {"size": [height, width], "counts": [...] or "..."}, or "" if there is none. A *mask* here is `RunLengths`, the
compressed form: which pixels of a photograph are the object's, column by column, in some hundred bytes.

Only calls are used that pycocotools.mask has too.
"""

import importlib
import importlib.util
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Num, UInt8

from aa_flax.data.errors import DataError


class MissingLibrary(DataError, ImportError):
    """The library of COCO's scores and masks is not installed. The message is one line."""


def require_library(what: str = "COCO's scores") -> None:
    """Raise MissingLibrary, which says `what` needs it, unless hotcoco is installed."""
    if importlib.util.find_spec("hotcoco") is None:
        raise MissingLibrary(f"{what} need hotcoco: pip install 'aa_flax[detection]'")


def _library() -> Any:
    require_library("masks")
    return importlib.import_module("hotcoco.mask")


@dataclass(frozen=True, slots=True)
class RunLengths:
    """A mask of some size.

    Attributes:
        size: (height, width) of the photograph.
        counts: how many pixels are out, in, out and so on, down the columns one after the other, in COCO's compression.
    """

    size: tuple[int, int]
    counts: bytes

    @property
    def area(self) -> int:
        """Return how many pixels the object has."""
        return int(_library().area(self._form()))

    @property
    def box(self) -> tuple[float, float, float, float]:
        """Return the box x1, y1, x2, y2 around the object's pixels; zeros if it has none."""
        x, y, width, height = (float(side) for side in _library().toBbox(self._form()))
        return x, y, x + width, y + height

    def pixels(self) -> Bool[np.ndarray, "h w"]:
        """Return whether each pixel of the photograph is the object's."""
        return _library().decode(self._form()).astype(np.bool_)

    def values(self) -> dict[str, Any]:
        """Return the mask as COCO's JSON has it."""
        return {"size": list(self.size), "counts": self.counts.decode("ascii")}

    def _form(self) -> dict[str, Any]:
        return {"size": list(self.size), "counts": self.counts}


def encoded(pixels: Bool[np.ndarray, "h w"]) -> RunLengths:
    """Return the mask of pixels."""
    form = _library().encode(np.asfortranarray(pixels, np.uint8))
    return RunLengths(tuple(form["size"]), bytes(form["counts"]))


def mask_of(segmentation: str | bytes, size: tuple[int, int]) -> RunLengths:
    """Return the mask of a segmentation in a photograph of a (height, width), as pycocotools gives it.

    Raises:
        ValueError: there is no segmentation, or its run lengths are of another size.
    """
    value = json.loads(segmentation) if segmentation else None
    if not value:
        raise ValueError("the object has no mask")
    if isinstance(value, list):
        return _of_polygons(value, size)
    return from_values(value, size)


def from_values(value: Any, size: tuple[int, int] | None = None) -> RunLengths:
    """Return the mask of run lengths as COCO's JSON has them, compressed or as a list.

    Args:
        value: {"size": [height, width], "counts": [...] or "..."}.
        size: the (height, width) that it must have, if any.

    Raises:
        ValueError: it is none, or of another size.
    """
    if fault := run_lengths_fault(value, size):
        raise ValueError(fault)
    height, width = value["size"]
    form = _library().frPyObjects(value, height, width)
    return RunLengths((height, width), bytes(form["counts"]))


def cropped(
    segmentation: str | bytes, box: Num[np.ndarray, "4"], size: tuple[int, int], side: int
) -> UInt8[np.ndarray, "side side"]:
    """Return the part of a mask within a box, resampled to `side` × `side` cells of 0 and 1.

    Polygons are rasterised on the cells themselves, so that a small object has all of its outline. Of run lengths each
    cell has the photograph's pixel in which its centre lies, and those outside the photograph have 0.

    Args:
        segmentation: of the object, in the photograph's pixels.
        box: x1, y1, x2, y2 in the photograph's pixels; it may reach beyond the photograph.
        size: (height, width) of the photograph.
        side: cells across and down.

    Raises:
        ValueError: there is no segmentation, or its run lengths are of another size.
    """
    value = json.loads(segmentation) if segmentation else None
    corner, sides = np.asarray(box[:2], np.float64), np.asarray(box[2:] - box[:2], np.float64)
    if isinstance(value, list) and value:
        scaled = [((np.asarray(each, np.float64).reshape(-1, 2) - corner) * (side / sides)) for each in value]
        return _of_polygons([each.reshape(-1).tolist() for each in scaled], (side, side)).pixels().astype(np.uint8)
    pixels = np.pad(mask_of(segmentation, size).pixels(), 1)  # the border stands for all that is outside
    centres = (np.arange(side) + 0.5) / side
    columns, rows = (
        np.clip(np.floor(start + length * centres) + 1, 0, last + 1).astype(int)
        for start, length, last in zip(corner, sides, size[::-1], strict=True)
    )
    return pixels[np.ix_(rows, columns)].astype(np.uint8)


def _of_polygons(polygons: Sequence[Sequence[int | float]], size: tuple[int, int]) -> RunLengths:
    """Return the mask of all pixels that lie in any of some polygons."""
    library = _library()
    form = library.merge(library.frPyObjects(polygons, *size))
    return RunLengths(size, bytes(form["counts"]))


def run_lengths_fault(value: Any, size: tuple[int, int] | None = None) -> str:
    """Return what is wrong with run lengths as COCO's JSON has them, "" if nothing is.

    Args:
        value: {"size": [height, width], "counts": [...] or "..."}.
        size: the (height, width) that they must have, if any.
    """
    own, counts = (value.get("size"), value.get("counts")) if isinstance(value, dict) else (None, None)
    if not isinstance(own, list) or len(own) != 2 or any(type(side) is not int or side < 1 for side in own):
        return f"run lengths have the size {own!r:.60}, expected height and width"
    if size is not None and tuple(own) != size:
        return (
            f"run lengths are of {own[1]} × {own[0]} pixels (width × height), and the image has {size[1]} × {size[0]}"
        )
    numbers = counts_of(counts)
    if numbers is None:
        return f"run lengths have counts {counts!r:.60}, expected a list of whole numbers or COCO's text"
    if (total := sum(numbers)) != own[0] * own[1]:
        return f"run lengths cover {total:,} pixels of {own[0] * own[1]:,}"
    return ""


def counts_of(value: Any) -> list[int] | None:
    """Return how many pixels are out, in, out and so on, of the counts of run lengths in either form; None of others.

    In COCO's compressed text each character has five bits of a number, the lowest first, and one that says whether more
    follow; from the fourth count on the number is the difference to the count two before (rleFrString in cocoapi's
    maskApi.c).
    """
    if isinstance(value, list):
        return value if all(type(count) is int and count >= 0 for count in value) else None
    if not isinstance(value, str | bytes):
        return None
    counts: list[int] = []
    number = shift = 0
    for character in value if isinstance(value, bytes) else value.encode("utf-8", "surrogatepass"):
        bits = character - 48
        if not 0 <= bits < 64 or shift > 60:
            return None
        number |= (bits & 31) << shift
        shift += 5
        if bits & 32:
            continue
        if bits & 16:
            number -= 1 << shift
        counts.append(number + (counts[-2] if len(counts) > 2 else 0))
        if counts[-1] < 0:
            return None
        number = shift = 0
    return None if shift else counts
