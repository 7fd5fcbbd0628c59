"""Pictures of a run: learning curves, confusion matrix, attention maps.

Each function returns its figure, which notebooks show, and saves it if a file is given.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int, UInt8
from matplotlib.figure import Figure

from aa_flax.drawing.saving import drawable_names, in_plain_style, saved

_INK = "#333333"
_NO_SCORES = ("step", "split", "epoch", "seconds")
_RAW = "raw_"  # of the last step's weights, in runs that evaluate averaged ones
_TRAIN, _HELD_OUT = "#9aa5b1", "#b3322c"
_PANELS = 5
"""How many curves stand side by side."""


@in_plain_style
def learning_curves(rows: Sequence[Mapping[str, Any]], file: Path | None = None) -> Figure:
    """Plot the loss and every score over epochs, of training and of held-out data, from the rows of `metrics.jsonl`.

    A training row has the means over a log window. Where a run averages its weights, the scores of those of the last
    step are dashed.
    """
    held_out = [name for row in rows if row["split"] == "eval" for name in row]
    names = [
        name for name in dict.fromkeys(["loss", *held_out]) if name not in _NO_SCORES and not name.startswith(_RAW)
    ]
    rows_of_panels = -(-len(names) // _PANELS)
    columns = -(-len(names) // rows_of_panels)
    figure = Figure(figsize=(4.5 * columns, 3.4 * rows_of_panels), layout="constrained")
    panels = figure.subplots(rows_of_panels, columns, squeeze=False).ravel()
    for axes in panels[len(names) :]:
        axes.set_axis_off()
    for axes, name in zip(panels, names, strict=False):
        for split, key, label, color, style in (
            ("train", name, "training", _TRAIN, "-"),
            ("eval", _RAW + name, "held out, last step", _HELD_OUT, "--"),
            ("eval", name, "held out", _HELD_OUT, "-"),
        ):
            if chosen := [(row["epoch"], row[key]) for row in rows if row["split"] == split and key in row]:
                epochs, values = zip(*chosen, strict=True)
                marker = "o" if split == "eval" else None
                axes.plot(epochs, values, style, color=color, label=label, lw=1.4, marker=marker, ms=3)
        axes.set_xlabel("epoch")
        axes.set_title(name.replace("_", " "), loc="left", fontsize=10, color=_INK)
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="y", alpha=0.25)
        axes.legend(frameon=False, fontsize=9)
    return saved(figure, file, 110)


@in_plain_style
def confusion_matrix(confusion: Int[np.ndarray, "k k"], class_names: Sequence[str], file: Path | None = None) -> Figure:
    """Draw the counts of each true class (row) and predicted class (column), coloured by the fraction of the row."""
    names, k = drawable_names(class_names), len(class_names)
    fraction = confusion / np.maximum(confusion.sum(1, keepdims=True), 1)
    side = min(max(0.55 * k, 3.5), 18)
    figure = Figure(figsize=(side + 1.2, side + 0.6), layout="constrained")
    axes = figure.subplots()
    shown = axes.imshow(fraction, cmap="Blues", vmin=0, vmax=1)
    if k <= 30:
        for i, j in np.ndindex(k, k):
            if confusion[i, j]:
                color = "white" if fraction[i, j] > 0.5 else _INK
                axes.text(j, i, str(confusion[i, j]), ha="center", va="center", fontsize=7, color=color)
        axes.set_xticks(range(k), names, rotation=60, ha="right", fontsize=8)
        axes.set_yticks(range(k), names, fontsize=8)
    axes.set_xlabel("predicted")
    axes.set_ylabel("true")
    figure.colorbar(shown, ax=axes, shrink=0.7, label="fraction of the true class")
    return saved(figure, file, 130)


@in_plain_style
def attention_figure(
    images: UInt8[np.ndarray, "b h w c"],
    titles: Sequence[str],
    maps: Mapping[str, Float[Any, "b n q ha wa"]],
    queries: Sequence[tuple[int, int]],
    file: Path | None = None,
    max_heads: int = 4,
) -> Figure:
    """Draw what each head of some layers attends to for some query pixels, as Figures 9 and 10 of Bello et al. (2019).

    Each image and query has a row: the image with the query marked, then, for each layer and head, the map over the
    image, scaled to its own largest weight.

    Args:
        images: pixels, 0 to 255.
        titles: words for each image.
        maps: the weights of each layer by its path, from `attention_maps` with the same `queries`.
        queries: (row, column) of each query pixel.
        file: the picture to write, if any.
        max_heads: how many heads of each layer to draw, the first ones.
    """
    panels = [(path, head) for path, m in maps.items() for head in range(min(m.shape[1], max_heads))]
    rows = [(image, query) for image in range(len(images)) for query in range(len(queries))]
    figure = Figure(figsize=(1.35 * (1 + len(panels)), 1.4 * len(rows) + 0.5), layout="constrained")
    grid = figure.subplots(len(rows), 1 + len(panels), squeeze=False)
    height, width = images.shape[1:3]
    for line, (image, query) in zip(grid, rows, strict=True):
        pixels = images[image] if images.shape[-1] == 3 else np.repeat(images[image], 3, -1)
        line[0].imshow(pixels)
        if query == 0:
            line[0].set_title(titles[image], fontsize=8, color=_INK)
        for axes, (path, head) in zip(line[1:], panels, strict=True):
            weights = np.asarray(maps[path][image, head, query], np.float32)
            axes.imshow(pixels.mean(-1), cmap="gray", alpha=0.55)
            extent = (-0.5, width - 0.5, height - 0.5, -0.5)
            axes.imshow(weights / weights.max(), cmap="inferno", alpha=0.65, extent=extent, interpolation="bilinear")
            if image == 0 and query == 0:
                layer = path.rsplit(".", 1)[0].replace(".", "\n")  # only one convolution of a block attends
                axes.set_title(f"{layer}\nhead {head + 1}", fontsize=8, color=_INK)
        row, column = queries[query]
        for axes in line:
            axes.plot(column, row, marker="+", ms=9, mew=2, color="#39d0ff")
            axes.set_axis_off()
    return saved(figure, file, 90)
