"""Galleries of a segmentation network: photographs, true label maps, what the network gives, and where it is wrong."""

from collections.abc import Callable, Sequence
from io import BytesIO
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import UInt8
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from aa_flax.drawing.boxes import color_key
from aa_flax.drawing.label_maps import errors, overlay
from aa_flax.drawing.saving import drawable, in_plain_style, saved

_INK = "#333333"
_DPI = 100
_MOST_KEYS = 40
_MOST_WORDS = 44  # characters above a photograph
_SHORTEST, _LONGEST = 640, 1600
"""Pixels of the longer side of a picture."""


class Example(NamedTuple):
    """A photograph with the classes that its pixels have and were given, and words about it."""

    pixels: UInt8[np.ndarray, "h w c"]
    truth: UInt8[np.ndarray, "h w"]
    given: UInt8[np.ndarray, "h w"]
    words: str


@in_plain_style
def truths_beside_segments(
    examples: Sequence[Example],
    class_names: Sequence[str],
    colors: UInt8[np.ndarray, "256 3"],
    file: Path | None = None,
    *,
    opacity: float = 0.6,
) -> Figure:
    """Draw a row for each photograph: itself, its true classes, those it was given, and its wrong pixels in red.

    Pixels without a true class are black in the last.

    Args:
        examples: the photographs.
        class_names: of every class.
        colors: of each label, see `label_colors`.
        file: the PNG to write, if any, or memory for it.
        opacity: of the colours over the photographs.
    """
    panel, gap, head, foot = 3.0, 0.06, 0.26, 0.42  # inches
    heights = [panel * min(max(one.pixels.shape[0] / one.pixels.shape[1], 0.4), 1.5) for one in examples]
    width, height = 4 * (panel + gap) + gap, sum(heights) + (head + gap) * len(examples) + foot
    figure = Figure(figsize=(width, height), dpi=_DPI)
    FigureCanvasAgg(figure)
    y, there = height, np.zeros(256, bool)
    for one, tall in zip(examples, heights, strict=True):
        y -= head + tall
        of_truth, of_given = (overlay(one.pixels, each, colors, opacity) for each in (one.truth, one.given))
        pictures = (one.pixels.squeeze(), of_truth, of_given, errors(one.pixels, one.given, one.truth))
        words = drawable(one.words)
        words = words if len(words) <= _MOST_WORDS else f"{words[: _MOST_WORDS - 1]}\N{HORIZONTAL ELLIPSIS}"
        titles = (words, "annotated", "predicted", "wrong")
        for column, (picture, title) in enumerate(zip(pictures, titles, strict=True)):
            x = gap + column * (panel + gap)
            axes = figure.add_axes((x / width, y / height, panel / width, tall / height))
            axes.imshow(picture, cmap="gray", vmin=0, vmax=255)
            axes.set_axis_off()
            figure.text(x / width, (y + tall + 0.07) / height, title, fontsize=8, color=_INK)
        y -= gap
        there[one.truth], there[one.given] = True, True
    shown = np.flatnonzero(there[: len(class_names)]).tolist()[:_MOST_KEYS]
    color_key(figure, shown, class_names, 0.2 / height, 8.0, _color_of(colors))
    return saved(figure, file, _DPI)


@in_plain_style
def draw_segments_over(
    pixels: UInt8[np.ndarray, "h w c"],
    labels: UInt8[np.ndarray, "h w"],
    class_names: Sequence[str],
    colors: UInt8[np.ndarray, "256 3"],
    opacity: float,
    file: Path | BytesIO | None = None,
) -> Figure:
    """Draw a photograph under the colours of its classes, with their names below, the largest first.

    The picture's longer side has 640 to 1600 pixels.

    Args:
        pixels: of the photograph, 0 to 255.
        labels: of its pixels.
        class_names: of every class.
        colors: of each label, see `label_colors`.
        opacity: of the colours, 0 to 1.
        file: the PNG to write, if any, or memory for it.
    """
    height, width = labels.shape
    scale = min(max(height, width, _SHORTEST), _LONGEST) / max(height, width)
    tall, wide = max(round(height * scale), 1), max(round(width * scale), 1)
    strip = 26  # pixels for the names
    figure = Figure(figsize=(wide / _DPI, (tall + strip) / _DPI), dpi=_DPI)
    FigureCanvasAgg(figure)
    axes = figure.add_axes((0, strip / (tall + strip), 1, tall / (tall + strip)))
    axes.imshow(overlay(pixels, labels, colors, opacity), interpolation="nearest" if scale > 1 else "antialiased")
    axes.set_axis_off()
    counts = np.bincount(labels.reshape(-1), minlength=256)[: len(class_names)]
    there = [int(k) for k in np.argsort(-counts, kind="stable") if counts[k]]
    color_key(figure, there, class_names, strip / 2 / (tall + strip), 9.0, _color_of(colors))
    return saved(figure, file, _DPI)


def _color_of(colors: UInt8[np.ndarray, "256 3"]) -> Callable[[int], tuple[float, float, float]]:
    def color(label: int) -> tuple[float, float, float]:
        red, green, blue = (float(part) / 255 for part in colors[label])
        return red, green, blue

    return color
