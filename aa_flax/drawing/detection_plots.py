"""Plots of a detector's scores: precision over recall, AP by class, F1 by threshold, kinds of mistakes."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from aa_flax.drawing.boxes import class_color
from aa_flax.drawing.saving import drawable_names, in_plain_style, saved
from aa_flax.evaluation.coco import CocoScores
from aa_flax.evaluation.matching import RECALLS
from aa_flax.evaluation.mistakes import KINDS
from aa_flax.evaluation.score_threshold import ScoreThresholds

_INK, _FAINT, _ALL = "#333333", "#c3cad2", "#222222"
_NAMED = 10
"""So many classes have curves in colour with a name; of more only the mean or the whole has."""
_MOST_BARS = 100
_DPI = 110
_MOST_POINTS = 2000
KIND_COLORS: Mapping[str, str] = {
    "correct": "#2e8b57",
    "localisation": "#f2a541",
    "confusion": "#c94c9a",
    "both": "#8e6bbf",
    "duplicate": "#4f9bd9",
    "background": "#c0392b",
    "missed": "#7f8c8d",
}


@in_plain_style
def precision_recall(scores: CocoScores, class_names: Sequence[str], file: Path | None = None) -> Figure:
    """Plot the precision of each class over its recall, at an overlap of 0.5, and the mean of the classes.

    The area under a curve is the class's AP50, which stands beside its name.
    """
    names = drawable_names(class_names)
    present = [k for k, ap in enumerate(scores.by_class_50) if ap is not None]
    figure, axes = _axes(7.0, 4.2)
    for k in present:
        own: dict[str, Any] = dict(color=class_color(k), lw=1.6, label=f"{names[k]}  {scores.by_class_50[k]:.3f}")
        axes.plot(RECALLS, scores.precision_50[k], **(own if len(present) <= _NAMED else dict(color=_FAINT, lw=0.7)))
    mean = scores.precision_50[present].mean(0)
    label = f"all {len(present)} classes  {scores.values['AP50']:.3f}"
    axes.plot(RECALLS, mean, color=_ALL, lw=2, ls="--" if len(present) <= _NAMED else "-", label=label)
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1.02)
    axes.set_xlabel("recall: part of the objects that are found")
    axes.set_ylabel("precision: part of the detections that are right")
    _titled(axes, "Precision over recall (overlap 0.5), with AP50")
    _keyed(figure, axes)
    return saved(figure, file, _DPI)


@in_plain_style
def ap_by_class(scores: CocoScores, class_names: Sequence[str], file: Path | None = None) -> Figure:
    """Draw AP and AP50 of each class as bars, the best above, with its number of objects; classes without are left out.

    Of more than 100 classes, the 50 best and the 50 worst are drawn.
    """
    names = drawable_names(class_names)
    present = sorted(
        (k for k, ap in enumerate(scores.by_class) if ap is not None), key=lambda k: -(scores.by_class[k] or 0)
    )
    title = "AP and AP50 by class (number of objects)"
    if len(present) > _MOST_BARS:
        title = f"The {_MOST_BARS // 2} best and worst of {len(present)} classes: AP and AP50 (number of objects)"
        present = present[: _MOST_BARS // 2] + present[-_MOST_BARS // 2 :]
    figure, axes = _axes(7.0, 1.3 + 0.27 * max(len(present), 3))
    places = np.arange(len(present))
    ap, ap50 = ([float(of[k] or 0) for k in present] for of in (scores.by_class, scores.by_class_50))
    axes.barh(places, ap50, height=0.72, color="#cfe0f1", label="AP50")
    axes.barh(places, ap, height=0.72, color="#3b76af", label="AP")
    for place, (value, value50) in enumerate(zip(ap, ap50, strict=True)):
        text = axes.text(value50 + 0.01, place, f"{value:.3f} / {value50:.3f}", va="center", fontsize=8, color=_INK)
        text.set_bbox(dict(facecolor="white", edgecolor="none", pad=0.6, alpha=0.8))
    axes.axvline(scores.values["AP"] or 0, color=_ALL, lw=1, ls="--", label=f"mean AP {scores.values['AP']:.3f}")
    axes.set_yticks(places, [f"{names[k]} ({scores.truths[k]:,})" for k in present], fontsize=8)
    axes.invert_yaxis()
    axes.set_ylim(len(present) - 0.4, -0.6)
    axes.set_xlim(0, 1.18)
    axes.set_xticks(np.linspace(0, 1, 6))
    axes.grid(axis="y", visible=False)
    _titled(axes, title)
    _keyed(figure, axes)
    return saved(figure, file, _DPI)


@in_plain_style
def f1_by_threshold(curves: ScoreThresholds, class_names: Sequence[str], file: Path | None = None) -> Figure:
    """Plot F1 of all classes together over the threshold of the score, with the best threshold marked.

    Classes have thin curves, each with its own best threshold beside its name. Precision and recall of all are dotted.
    """
    names = drawable_names(class_names)
    present = [k for k, curve in enumerate(curves.by_class) if curve.best is not None]
    named = len(present) <= _NAMED
    figure, axes = _axes(7.0, 4.2)
    for k in present:
        curve = curves.by_class[k]
        own: dict[str, Any] = dict(
            color=class_color(k), lw=1.2, label=f"{names[k]}: {curve.best_f1:.3f} at {curve.best:g}"
        )
        axes.plot(*_steps(curve.thresholds, curve.f1), **(own if named else dict(color=_FAINT, lw=0.6)))
    whole = curves.all
    for values, style, word in ((whole.precision, ":", "precision of all"), (whole.recall, "-.", "recall of all")):
        axes.plot(*_steps(whole.thresholds, values), color="#7d8894", lw=1, ls=style, label=word)
    axes.plot(*_steps(whole.thresholds, whole.f1), color=_ALL, lw=2, label="F1 of all")
    if whole.best is not None:
        axes.plot([whole.best] * 2, [0, whole.best_f1], color="#b3322c", lw=1)
        axes.plot(
            whole.best, whole.best_f1, "o", color="#b3322c", ms=6, label=f"best: {whole.best_f1:.3f} at {whole.best:g}"
        )
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1.02)
    axes.set_xlabel("threshold of the score")
    axes.set_ylabel("F1")
    _titled(axes, "F1 by threshold (overlap 0.5)")
    _keyed(figure, axes)
    return saved(figure, file, _DPI)


@in_plain_style
def kinds_of_mistakes(
    counts: Mapping[str, Int[np.ndarray, " classes"]], class_names: Sequence[str], file: Path | None = None
) -> Figure:
    """Draw which part of each class's detections and missed objects is of which kind, as stacked bars.

    Classes with more of them stand above; of more than 100 classes the others are left out.

    Args:
        counts: from `aa_flax.evaluation.mistakes.count_kinds`.
        class_names: of every class.
        file: the PNG to write, if any.
    """
    names = drawable_names(class_names)
    totals = np.sum(list(counts.values()), 0)
    present = [k for k in np.argsort(-totals, kind="stable").tolist() if totals[k]][:_MOST_BARS]
    figure, axes = _axes(8.6, 1.5 + 0.27 * max(len(present), 4))
    places, left = np.arange(len(present)), np.zeros(len(present))
    for kind, of_classes in counts.items():
        parts, label = of_classes[present] / totals[present], f"{kind}: {KINDS[kind]} ({of_classes.sum():,})"
        axes.barh(places, parts, left=left, height=0.72, color=KIND_COLORS[kind], label=label)
        left = left + parts
    axes.set_yticks(places, [f"{names[k]} ({totals[k]:,})" for k in present], fontsize=8)
    axes.set_ylim(max(len(present), 1) - 0.4, -0.6)
    axes.set_xlim(0, 1)
    axes.grid(axis="y", visible=False)
    axes.set_xlabel("part of the detections and missed objects (their number)")
    _titled(axes, "What the detector does right and wrong")
    _keyed(figure, axes)
    return saved(figure, file, _DPI)


def _axes(width: float, height: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.subplots()
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25)
    axes.set_axisbelow(True)
    axes.tick_params(labelsize=8)
    return figure, axes


def _titled(axes: Axes, title: str) -> None:
    axes.set_title(title, loc="left", fontsize=10, color=_INK)
    for label in (axes.xaxis.label, axes.yaxis.label):
        label.set(size=9, color=_INK)


def _keyed(figure: Figure, axes: Axes) -> None:
    """Put the key of the lines beside the axes, where it hides none."""
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right upper", frameon=False, fontsize=8)


def _steps(thresholds: np.ndarray, values: np.ndarray) -> tuple[Any, Any]:
    """Return points of a curve from 0 on, at most some thousands."""
    if not len(thresholds):
        return thresholds, values
    if len(thresholds) > _MOST_POINTS:
        chosen = np.unique(np.linspace(0, len(thresholds) - 1, _MOST_POINTS).astype(int))
        thresholds, values = thresholds[chosen], values[chosen]
    return np.append(thresholds, min(0.0, thresholds[-1])), np.append(values, values[-1])
