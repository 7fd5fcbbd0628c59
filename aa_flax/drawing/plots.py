"""Pictures of a run: learning curves, confusion matrix.

Each function returns its figure, which notebooks show, and saves it if a file is given.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int
from matplotlib.figure import Figure

from aa_flax.drawing.saving import drawable_names, in_plain_style, saved

_INK = "#333333"
_NO_SCORES = ("step", "split", "epoch", "seconds")
_RAW = "raw_"  # of the last step's weights, in runs that evaluate averaged ones
_TRAIN, _HELD_OUT = "#9aa5b1", "#b3322c"
_LONGEST_COUNT = 100_000
"""Counts from here on find no room in a cell."""
_PANELS = 5
"""How many curves stand side by side."""


@in_plain_style
def learning_curves(rows: Sequence[Mapping[str, Any]], file: Path | None = None) -> Figure:
    """Plot every loss and score over epochs, of training and of held-out data, from the rows of `metrics.jsonl`.

    A training row has the means over a log window. Where a run averages its weights, the scores of those of the last
    step are dashed. A score without a value, such as the AP of a size that no object has, has no panel.
    """
    names = _names_of_curves(rows)
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
            if chosen := [
                (row["epoch"], row[key]) for row in rows if row["split"] == split and _is_known(row.get(key))
            ]:
                epochs, values = zip(*chosen, strict=True)
                marker = "o" if split == "eval" or len(chosen) == 1 else None
                axes.plot(epochs, values, style, color=color, label=label, lw=1.4, marker=marker, ms=3)
        axes.set_xlim(left=0)
        axes.set_xlabel("epoch")
        axes.set_title(name.replace("_", " "), loc="left", fontsize=10, color=_INK)
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="y", alpha=0.25)
        axes.legend(frameon=False, fontsize=9)
    return saved(figure, file, 110)


def _names_of_curves(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return "loss", the losses that its parts have, and the held-out scores, as far as some row has a value."""
    known: dict[str, list[str]] = {"train": [], "eval": []}
    for row in rows:
        known[row["split"]] += [name for name, value in row.items() if _is_known(value)]
    losses = [name for name in known["train"] + known["eval"] if name.endswith("_loss")]
    names = dict.fromkeys(["loss", *losses, *known["eval"]])
    return [name for name in names if name not in _NO_SCORES and not name.startswith(_RAW)]


def _is_known(value: Any) -> bool:
    return isinstance(value, int | float) and not math.isnan(value)


@in_plain_style
def confusion_matrix(confusion: Int[np.ndarray, "k k"], class_names: Sequence[str], file: Path | None = None) -> Figure:
    """Draw the counts of each true class (row) and predicted class (column), coloured by the fraction of the row.

    Where counts are too long for their cells, such as those of pixels, percents of the row stand for all.
    """
    names, k = drawable_names(class_names), len(class_names)
    fraction = confusion / np.maximum(confusion.sum(1, keepdims=True), 1)
    in_percent = confusion.max() >= _LONGEST_COUNT
    numbers = np.round(100 * fraction).astype(int) if in_percent else confusion
    side = min(max(0.55 * k, 3.5), 18)
    figure = Figure(figsize=(side + 1.2, side + 0.6), layout="constrained")
    axes = figure.subplots()
    shown = axes.imshow(fraction, cmap="Blues", vmin=0, vmax=1)
    if k <= 30:
        for i, j in np.ndindex(k, k):
            if numbers[i, j]:
                color = "white" if fraction[i, j] > 0.5 else _INK
                axes.text(j, i, str(numbers[i, j]), ha="center", va="center", fontsize=7, color=color)
        axes.set_xticks(range(k), names, rotation=60, ha="right", fontsize=8)
        axes.set_yticks(range(k), names, fontsize=8)
    axes.set_xlabel("predicted")
    axes.set_ylabel("true")
    label = f"fraction of the true class{', in percent in the cells' if in_percent else ''}"
    figure.colorbar(shown, ax=axes, shrink=0.7, label=label)
    return saved(figure, file, 130)
