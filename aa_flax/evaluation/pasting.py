"""Masks of detections, which a network gives as a small square for each box, brought back to the photograph."""

import numpy as np
from jaxtyping import Bool, Float, Int


def paste(
    probabilities: Float[np.ndarray, "m m"],
    box: Float[np.ndarray, "4"],
    size: tuple[int, int],
    threshold: float = 0.5,
) -> Bool[np.ndarray, "h w"]:
    """Return which pixels of a photograph are an object's, of the square that a network gave for its box.

    A pixel (x, y) has the probability at the point ((x + 0.5 - x1) / (x2 - x1), (y + 0.5 - y1) / (y2 - y1)) of the box,
    bilinearly between the centres of the square's cells, which lie at (i + 0.5) / m; beyond the square it is 0. It is
    the object's from the threshold on, and only if its centre lies in the box.

    That is detectron2's `paste_masks_in_image` (`grid_sample` with align_corners=False and zeros as padding), in which
    a pixel outside the box has half of a cell's probability at most. torchvision's `paste_masks_in_image` differs by up
    to a pixel at the border: it rounds the box to whole pixels, both ends included, before it resizes the square to it,
    and asks for more than the threshold.

    Args:
        probabilities: of the object, for the cells of its box.
        box: x1, y1, x2, y2 in pixels of the photograph; it may reach beyond.
        size: (height, width) of the photograph.
        threshold: the least probability of a pixel of the object.
    """
    pixels = np.zeros(size, np.bool_)
    left, columns, right_shares = _cells(box[0], box[2], size[1], len(probabilities))
    top, rows, lower_shares = _cells(box[1], box[3], size[0], len(probabilities))
    if not len(columns) or not len(rows):
        return pixels
    padded = np.pad(np.asarray(probabilities, np.float64), 1)  # the border stands for what is beyond the square
    lines = padded[rows] + lower_shares[:, None] * (padded[rows + 1] - padded[rows])
    here = lines[:, columns] + right_shares * (lines[:, columns + 1] - lines[:, columns])
    pixels[top : top + len(rows), left : left + len(columns)] = here >= threshold
    return pixels


def _cells(
    start: float, end: float, length: int, cells: int
) -> tuple[int, Int[np.ndarray, " pixels"], Float[np.ndarray, " pixels"]]:
    """Return the first pixel whose centre lies between two places of a line, and where each of these pixels lies.

    That is the cell before it, counted from 0 for the border before the first, and the share of the one after it.

    Args:
        start, end: the places, in pixels.
        length: of the line.
        cells: how many lie between the places.
    """
    if not end > start:
        return 0, np.zeros(0, np.int64), np.zeros(0)
    first, last = max(0, int(np.ceil(start - 0.5))), min(length - 1, int(np.floor(end - 0.5)))
    places = (np.arange(first, last + 1) + 0.5 - start) / (end - start) * cells + 0.5
    before = np.clip(np.floor(places), 0, cells).astype(np.int64)
    return first, before, places - before
