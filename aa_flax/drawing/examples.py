"""Examples of a data set as they are annotated: photographs under their label maps, or with their boxes or classes."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from aa_flax.drawing.boxes import boxes_on, color_key
from aa_flax.drawing.label_maps import label_colors, overlay
from aa_flax.drawing.saving import drawable, in_plain_style, saved

_DPI = 100
_PANEL, _GAP, _HEAD, _KEYS = 3.2, 0.08, 0.24, 0.3  # inches
_COLUMNS = 4
_MOST_WORDS = 44  # characters above a photograph


class Annotated(NamedTuple):
    """A photograph, a few words about it, and its label map or its boxes with classes and masks, if it has these."""

    pixels: UInt8[np.ndarray, "h w c"]
    words: str
    labels: UInt8[np.ndarray, "h w"] | None = None
    boxes: Float[np.ndarray, "n 4"] | None = None
    classes: Int[np.ndarray, " n"] | None = None
    masks: Sequence[Bool[np.ndarray, "h w"]] | None = None


@in_plain_style
def draw_examples(
    examples: Sequence[Annotated],
    class_names: Sequence[str],
    file: Path | None = None,
    *,
    given_colors: Sequence[Sequence[int]] = (),
    opacity: float = 0.6,
) -> Figure:
    """Draw photographs under the colours of their pixels' classes, whose names stand below, or with named boxes.

    Pixels of no class stay as they are.

    Args:
        examples: the photographs, at least one.
        class_names: of every class.
        file: the PNG to write, if any.
        given_colors: red, green and blue, 0 to 255, of every class; () for a colour of this library's.
        opacity: of the colours.
    """
    colors = label_colors(len(class_names), given_colors)
    columns = min(_COLUMNS, len(examples))
    lines = [examples[start : start + columns] for start in range(0, len(examples), columns)]
    tall = [_PANEL * max(min(one.pixels.shape[0] / one.pixels.shape[1], 1.5) for one in line) for line in lines]
    counts = sum((_counts(one) for one in examples), np.zeros(256, np.int64))[: len(class_names)]
    keys = [int(label) for label in np.argsort(-counts, kind="stable") if counts[label]]
    foot = _KEYS if keys else 0.0
    width, height = columns * (_PANEL + _GAP) + _GAP, sum(tall) + len(lines) * (_HEAD + _GAP) + foot + _GAP
    figure = Figure(figsize=(width, height), dpi=_DPI)
    FigureCanvasAgg(figure)
    top = height
    for line, room in zip(lines, tall, strict=True):
        top -= _HEAD
        for column, one in enumerate(line):
            left = _GAP + column * (_PANEL + _GAP)
            words = drawable(one.words)
            words = words if len(words) <= _MOST_WORDS else f"{words[: _MOST_WORDS - 1]}\N{HORIZONTAL ELLIPSIS}"
            figure.text(left / width, (top + 0.06) / height, words, fontsize=8, parse_math=False)
            axes = figure.add_axes((left / width, (top - room) / height, _PANEL / width, room / height))
            axes.set_anchor("N")
            axes.set_axis_off()
            if one.boxes is not None and one.classes is not None:
                boxes_on(axes, one.pixels, one.boxes, one.classes, class_names, size=6.0, masks=one.masks)
            else:
                seen = one.pixels if one.labels is None else overlay(one.pixels, one.labels, colors, opacity)
                axes.imshow(seen.squeeze(), cmap="gray", vmin=0, vmax=255)
        top -= room + _GAP
    if keys:
        color_key(figure, keys, class_names, foot / 2 / height, 8.0, lambda label: tuple(colors[label] / 255))
    return saved(figure, file, _DPI)


def _counts(one: Annotated) -> Int[np.ndarray, "256"]:
    """Return how many pixels have each label."""
    return np.bincount(np.empty(0, np.uint8) if one.labels is None else one.labels.reshape(-1), minlength=256)
