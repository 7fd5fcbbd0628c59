"""Galleries of a detector: truths beside what was found, and its mistakes by kind."""

import itertools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from jaxtyping import UInt8
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from aa_flax.data.annotated import Truth
from aa_flax.drawing.boxes import as_color, boxes_on, class_color, color_key, outline
from aa_flax.drawing.detection_plots import KIND_COLORS
from aa_flax.drawing.saving import drawable, drawable_names, in_plain_style, saved
from aa_flax.evaluation.detections import Found
from aa_flax.evaluation.mistakes import KINDS, Verdict

_INK, _FAINT = "#333333", "#6b7680"
_DPI = 100
Photo = UInt8[np.ndarray, "_height _width _channels"]


@in_plain_style
def truths_beside_detections(
    photos: Sequence[Photo],
    truths: Sequence[Truth],
    found: Sequence[Found],
    class_names: Sequence[str],
    threshold: float,
    file: Path | None = None,
    *,
    most: int = 25,
) -> Figure:
    """Draw some photographs twice in a row each: with their annotated objects, crowds dashed, and with what was found.

    Where masks were found, they and those of the objects are drawn too.

    Args:
        photos: pixels of each photograph, 0 to 255.
        truths: of each.
        found: of each.
        class_names: of every class.
        threshold: detections are drawn whose score exceeds it.
        file: the PNG to write, if any.
        most: how many detections of a photograph are drawn at most, the surest. A network that has hardly learned gives
            hundreds of boxes about the same score, under which nothing is seen.
    """
    panel, gap, head = 4.8, 0.08, 0.28  # inches
    heights = [panel * min(max(photo.shape[0] / photo.shape[1], 0.4), 1.4) for photo in photos]
    width, height = 2 * panel + 3 * gap, sum(heights) + (head + gap) * len(photos) + 0.42
    figure = Figure(figsize=(width, height), dpi=_DPI)
    FigureCanvasAgg(figure)
    y = height
    drawn = {int(label) for truth in truths for label in truth.labels}
    for photo, truth, here, tall in zip(photos, truths, found, heights, strict=True):
        y -= head
        above = np.flatnonzero(here.scores > threshold)
        shown = above[np.argsort(-here.scores[above], kind="stable")[:most]]
        drawn |= {*here.labels[shown].tolist()}
        of_all = f": the surest {len(shown)} of {len(above)}" if len(shown) < len(above) else ""
        name = _shortened(drawable(name_of(truth.image_id, truth.file_name)), 60)
        for column, title in enumerate((f"{name}: annotated", f"found, score over {threshold:g}{of_all}")):
            x = gap + column * (panel + gap)
            figure.text(x / width, (y + 0.07) / height, title, fontsize=9, color=_INK, parse_math=False)
            axes = figure.add_axes((x / width, (y - tall) / height, panel / width, tall / height))
            if column:
                some = here.some(shown)
                masks = None if some.masks is None else [mask.pixels() for mask in some.masks]
                boxes_on(axes, photo, some.boxes, some.labels, class_names, some.scores, size=7.0, masks=masks)
            else:
                alone = ~truth.crowd
                masks = None if here.masks is None else [m.pixels() for m in itertools.compress(truth.masks(), alone)]
                boxes_on(axes, photo, truth.boxes[alone], truth.labels[alone], class_names, size=7.0, masks=masks)
                for box, label in zip(truth.boxes[truth.crowd], truth.labels[truth.crowd], strict=True):
                    outline(axes, box, class_color(int(label)), "--", 1.4)
        y -= tall + gap
    color_key(figure, sorted(drawn), class_names, 0.2 / height)
    return saved(figure, file, _DPI)


def worst(verdicts: Sequence[Verdict], each: int = 6) -> dict[str, list[Verdict]]:
    """Return the mistakes of each kind that teach most: the surest wrong detections and the largest missed objects.

    Args:
        verdicts: from `aa_flax.evaluation.mistakes.judge`.
        each: how many of a kind at most.
    """

    def weight(verdict: Verdict) -> float:
        return verdict.score if verdict.score is not None else float(np.prod(verdict.box[2:] - verdict.box[:2]))

    mistakes = {kind: [one for one in verdicts if one.kind == kind] for kind in KINDS if kind != "correct"}
    return {kind: sorted(some, key=weight, reverse=True)[:each] for kind, some in mistakes.items() if some}


@in_plain_style
def mistakes_by_kind(
    chosen: Mapping[str, Sequence[Verdict]],
    photo: Callable[[int], Photo],
    class_names: Sequence[str],
    file: Path | None = None,
    *,
    file_names: Mapping[int, str] = MappingProxyType({}),
) -> Figure:
    """Draw parts of photographs around mistakes, a row for each kind, with what is wrong as the title of each.

    A detection has the colour of its class; the object that it is judged by, or that was missed, a dashed white line.

    Args:
        chosen: the mistakes of each kind, for example from `worst`.
        photo: returns the pixels of a photograph, 0 to 255, by its id; it is asked once for each photograph.
        class_names: of every class.
        file: the PNG to write, if any.
        file_names: of photographs by their ids; one without, or with "", is called by its id.
    """
    names, side, gap, head, title = drawable_names(class_names), 1.75, 0.12, 0.26, 0.46
    columns = max(map(len, chosen.values()), default=1)
    width = max(columns * (side + gap) + gap, 4.5)
    height = max(len(chosen) * (head + title + side + gap), 0.6)
    figure = Figure(figsize=(width, height), dpi=_DPI)
    FigureCanvasAgg(figure)
    if not chosen:
        figure.text(0.5, 0.5, "no mistakes", fontsize=10, color=_INK, ha="center", va="center")
    photos = {number: photo(number) for number in sorted({one.image_id for some in chosen.values() for one in some})}
    y = height
    for kind, some in chosen.items():
        words = f"{kind}: {KINDS[kind]}"
        figure.text(gap / width, (y - head + 0.08) / height, words, fontsize=10, color=KIND_COLORS[kind], weight="bold")
        y -= head + title + side
        for column, verdict in enumerate(some):
            x = gap + column * (side + gap)
            axes = figure.add_axes((x / width, y / height, side / width, side / height))
            _crop(axes, photos[verdict.image_id], verdict)
            where = drawable(name_of(verdict.image_id, file_names.get(verdict.image_id, "")))
            lines = "\n".join([*map(_cut, _words(verdict, names)), _shortened(where)])
            figure.text(x / width, (y + side + 0.04) / height, lines, fontsize=7, color=_INK, linespacing=1.25)
        y -= gap
    return saved(figure, file, _DPI)


def _crop(axes: Any, pixels: Photo, verdict: Verdict) -> None:
    """Show the part of a photograph around a mistake, a square."""
    boxes = np.stack([verdict.box, *([] if verdict.truth_box is None else [verdict.truth_box])])
    (left, top), (right, bottom) = boxes[:, :2].min(0), boxes[:, 2:].max(0)
    half = max(right - left, bottom - top, 24) * 0.75
    x, y = (left + right) / 2, (top + bottom) / 2
    x1, y1 = (max(int(corner), 0) for corner in (x - half, y - half))
    x2, y2 = int(np.ceil(x + half)), int(np.ceil(y + half))
    part = as_color(pixels)[y1:y2, x1:x2]
    extent = (x1 - 0.5, x1 + part.shape[1] - 0.5, y1 + part.shape[0] - 0.5, y1 - 0.5)
    axes.set_facecolor("#eceff1")
    axes.imshow(part, extent=extent, interpolation="nearest" if half < 40 else "antialiased")
    axes.set_xlim(x - half - 0.5, x + half - 0.5)
    axes.set_ylim(y + half - 0.5, y - half - 0.5)
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set_color("#c3cad2")
    if verdict.truth_box is not None:
        outline(axes, verdict.truth_box, "white", (0, (3, 2)), 1.6)
    if verdict.score is None:
        outline(axes, verdict.box, "white", (0, (3, 2)), 1.6)
    else:
        outline(axes, verdict.box, class_color(verdict.label), "-", 1.8)


def name_of(image_id: int, file_name: str) -> str:
    """Return what a photograph is called: by its file, or where its data set does not say that, by its number."""
    return file_name or f"image {image_id}"


def _words(verdict: Verdict, names: Sequence[str]) -> tuple[str, str]:
    name = names[verdict.label]
    if verdict.score is None:
        return name, "not found"
    first = f"{name} {verdict.score:.2f}"
    if verdict.truth_label is None:
        return first, "nothing annotated there"
    other = "" if verdict.truth_label == verdict.label else f"is {names[verdict.truth_label]}, "
    return first, f"{other}overlap {verdict.overlap:.2f}"


def _cut(line: str, longest: int = 30) -> str:
    return line if len(line) <= longest else f"{line[: longest - 1]}\N{HORIZONTAL ELLIPSIS}"


def _shortened(name: str, longest: int = 30) -> str:
    """Return the end of a long name of a file, in which such names differ."""
    return name if len(name) <= longest else f"\N{HORIZONTAL ELLIPSIS}{name[1 - longest :]}"
