"""What the segments of a photograph attend to in the backbone of a segmentation network."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Array, Bool, Float, UInt8
from matplotlib.figure import Figure

from aa_flax.drawing.label_maps import overlay
from aa_flax.drawing.object_attention import ObjectAttention
from aa_flax.drawing.query_attention import attention_figure

_HEADS = 2


def deepest_pixel(mask: Bool[np.ndarray, "h w"]) -> tuple[int, int]:
    """Return (row, column) of a pixel of a mask that is far from its border: one of the last that erosion leaves.

    Of a large mask every n-th row and column is looked at, so that neither has more than 256.

    Raises:
        ValueError: the mask is empty.
    """
    step = -(-max(mask.shape) // 256)
    if not mask[::step, ::step].any():
        step = 1
    left = mask[::step, ::step]
    while True:
        around = np.pad(left, 1)
        smaller = left & around[:-2, 1:-1] & around[2:, 1:-1] & around[1:-1, :-2] & around[1:-1, 2:]
        if not smaller.any():
            break
        left = smaller
    rows, columns = np.nonzero(left)
    if not len(rows):
        raise ValueError("mask has no pixel")
    middle = len(rows) // 2
    return int(rows[middle]) * step, int(columns[middle]) * step


def draw_segments(
    attention: ObjectAttention,
    image: Float[Array, "h w c"],
    pixels: UInt8[np.ndarray, "h w c"],
    labels: UInt8[np.ndarray, "hs ws"],
    class_names: Sequence[str],
    colors: UInt8[np.ndarray, "256 3"],
    *,
    most: int = 4,
    file: Path | None = None,
) -> Figure:
    """Draw what one pixel inside each of the largest segments of a photograph attends to, a row each.

    A row has the photograph under the colours of its classes, with the pixel marked, and the maps of the heads of the
    last attending layer of each stage, each scaled to its own largest weight.

    Args:
        attention: of the network.
        image: normalised, on its canvas.
        pixels: the same canvas as pixels, 0 to 255.
        labels: the class of each pixel of the part of the canvas that the photograph fills.
        class_names: of every class.
        colors: of each label, see `label_colors`.
        most: how many classes to draw at most, those with the most pixels.
        file: the PNG to write, if any.
    """
    counts = np.bincount(labels.reshape(-1), minlength=len(class_names))
    chosen = [int(k) for k in np.argsort(-counts, kind="stable")[:most] if counts[k]]
    queries = [deepest_pixel(labels == k) for k in chosen]
    boxes = np.array([[column, row, column + 1, row + 1] for row, column in queries], np.float64)
    maps = {path: of_each.swapaxes(0, 1)[None] for path, of_each in attention(image, boxes).items()}
    height, width = labels.shape
    shown = np.repeat(pixels, 3, -1) if pixels.shape[-1] == 1 else pixels.copy()
    shown[:height, :width] = overlay(pixels[:height, :width], labels, colors, 0.45)
    words = [class_names[k] for k in chosen]
    sizes = [(height, width)]
    return attention_figure(shown[None], words[:1], maps, queries, file, _HEADS, sizes=sizes, query_titles=words)
