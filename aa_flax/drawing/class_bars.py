"""A photograph beside bars of its most probable classes."""

from collections.abc import Sequence
from io import BytesIO
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from aa_flax.drawing.boxes import as_color, class_color
from aa_flax.drawing.saving import drawable_names, in_plain_style, saved

_DPI = 100
_SIDE = 4.0
"""Inches of the photograph's longer side, and of the bars."""
_ROW = 0.34
"""Inches of a bar with its name."""


@in_plain_style
def draw_classes(
    pixels: UInt8[np.ndarray, "h w c"],
    labels: Sequence[int],
    probabilities: Sequence[float],
    class_names: Sequence[str],
    file: Path | BytesIO | None = None,
) -> Figure:
    """Draw a photograph, and to its right the name of each class above a bar of its probability.

    Args:
        pixels: of the photograph, 0 to 255, grey or colour.
        labels: the classes that are shown, from above.
        probabilities: of these.
        class_names: of every class.
        file: the PNG to write, if any, or memory for it.
    """
    height, width = pixels.shape[:2]
    tall, wide = (max(_SIDE * side / max(height, width), 0.5) for side in (height, width))
    full = max(tall, _ROW * len(labels) + 0.1)
    figure = Figure(figsize=(wide + _SIDE + 0.3, full), dpi=_DPI)
    FigureCanvasAgg(figure)
    photo = figure.add_axes((0, 1 - tall / full, wide / (wide + _SIDE + 0.3), tall / full))
    photo.imshow(
        as_color(pixels), interpolation="nearest" if max(height, width) < 200 else "antialiased", aspect="auto"
    )
    photo.set_axis_off()
    bars = figure.add_axes(((wide + 0.2) / (wide + _SIDE + 0.3), 0, _SIDE / (wide + _SIDE + 0.3), 1))
    bars.set(xlim=(0, 1), ylim=(full / _ROW, 0))
    bars.set_axis_off()
    names = drawable_names(class_names)
    for row, (label, probability) in enumerate(zip(labels, probabilities, strict=True)):
        bars.barh(row + 0.75, 1, height=0.3, color="#e8e8e8")
        bars.barh(row + 0.75, probability, height=0.3, color=class_color(label))
        bars.text(0, row + 0.5, names[label], fontsize=9, va="bottom", parse_math=False)
        bars.text(1, row + 0.5, f"{100 * probability:.1f} %", fontsize=9, va="bottom", ha="right")
    return saved(figure, file, _DPI)
