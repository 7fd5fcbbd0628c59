"""Pictures of the scores of a segmentation network."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from matplotlib.figure import Figure

from aa_flax.drawing.saving import drawable_names, in_plain_style, saved

_INK = "#333333"
_MOST_BARS = 100


@in_plain_style
def iou_by_class(
    iou: Mapping[str, float | None],
    accuracy: Mapping[str, float | None],
    parts: Mapping[str, float],
    colors: UInt8[np.ndarray, "256 3"],
    file: Path | None = None,
) -> Figure:
    """Draw the intersection over union of each class as bars in its colour, the best above, and its accuracy as a line.

    Classes without a score are left out. Of more than 100 classes, the 50 best and the 50 worst are drawn.

    Args:
        iou: of each class by its name, in the order of the labels.
        accuracy: the part of the pixels of each class that were given it.
        parts: of all annotated pixels, of each class.
        colors: of each label, see `label_colors`.
        file: the PNG to write, if any.
    """
    names = drawable_names([*iou])
    values = [*iou.values()]
    present = sorted((k for k, value in enumerate(values) if value is not None), key=lambda k: -(values[k] or 0))
    mean = float(np.mean([values[k] for k in present])) if present else 0.0
    title = "IoU and, as a line, accuracy by class (part of the pixels)"
    if len(present) > _MOST_BARS:
        title = f"The {_MOST_BARS // 2} best and worst of {len(present)} classes: IoU, accuracy (part of the pixels)"
        present = present[: _MOST_BARS // 2] + present[-_MOST_BARS // 2 :]
    figure = Figure(figsize=(7.0, 1.2 + 0.27 * max(len(present), 3)), layout="constrained")
    axes = figure.subplots()
    places = np.arange(len(present))
    axes.barh(places, [values[k] or 0 for k in present], height=0.72, color=colors[present] / 255)
    right = [*accuracy.values()]
    lines = [(place, value) for place, value in enumerate(right[k] for k in present) if value is not None]
    for place, value in lines:
        axes.plot([value, value], [place - 0.36, place + 0.36], color=_INK, lw=1.2)
    for place, k in enumerate(present):
        text = axes.text((values[k] or 0) + 0.01, place, f"{values[k]:.3f}", va="center", fontsize=8, color=_INK)
        text.set_bbox(dict(facecolor="white", edgecolor="none", pad=0.6, alpha=0.8))
    axes.axvline(mean, color="#b3322c", lw=1, ls="--", label=f"mean {mean:.3f}")
    of_pixels = [*parts.values()]
    axes.set_yticks(places, [f"{names[k]} ({100 * of_pixels[k]:.1f} %)" for k in present], fontsize=8)
    axes.set_ylim(max(len(present), 1) - 0.4, -0.6)
    axes.set_xlim(0, 1)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="x", alpha=0.25)
    axes.set_axisbelow(True)
    axes.set_title(title, loc="left", fontsize=10, color=_INK)
    axes.legend(frameon=False, fontsize=8, loc="lower right")
    return saved(figure, file, 110)
