"""Boxes with names over photographs, and masks under them."""

import colorsys
from collections.abc import Callable, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.patheffects import Normal, Stroke
from matplotlib.transforms import Bbox

from aa_flax.drawing.masks import masks_over
from aa_flax.drawing.saving import drawable_names, in_plain_style, saved

_COLORS = (
    *("#ff3b30", "#1fb5ff", "#4cd137", "#ffe119", "#d63af9", "#ff8c1a", "#00a896", "#3c6df0", "#ff8fab", "#a0e426"),
    *("#9b6bff", "#b8702d", "#12a150", "#e5178f", "#c9d1d9", "#e8d37f", "#8c1d18", "#7d8d00", "#7fdbff", "#5b3f8c"),
)
"""Colours of the first classes, far from each other and from most of what photographs have."""
_DPI = 100
_SHORTEST, _LONGEST = 640, 1600
"""Pixels of the longer side of a picture: smaller photographs are enlarged, larger ones reduced."""
_SIZE = 9.0
"""Points of a name, in pictures of up to 1000 pixels; larger ones are looked at from further away."""
_GOLDEN = 0.618034
Style = str | tuple[int, tuple[int, ...]]
"""Of a line: a word of matplotlib's, or an offset and lengths of dashes and gaps."""


def class_color(label: int) -> tuple[float, float, float]:
    """Return red, green and blue of a class's colour, from 0 to 1; every class has another one."""
    if label < len(_COLORS):
        red, green, blue = (int(_COLORS[label][k : k + 2], 16) / 255 for k in (1, 3, 5))
        return red, green, blue
    # Hues by the golden ratio never come together; lightness changes so that neighbours in hue differ too.
    return colorsys.hls_to_rgb(label * _GOLDEN % 1, (0.42, 0.56, 0.7)[label % 3], 0.85)


@in_plain_style
def draw_boxes(
    pixels: UInt8[np.ndarray, "h w c"],
    boxes: Float[Any, "n 4"],
    labels: Int[Any, " n"],
    class_names: Sequence[str],
    scores: Float[Any, " n"] | None = None,
    file: Path | BytesIO | None = None,
    *,
    masks: Sequence[Bool[np.ndarray, "h w"]] | None = None,
) -> Figure:
    """Draw boxes over a photograph, each in its class's colour with name and score.

    The picture's longer side has 640 to 1600 pixels: small photographs are enlarged, so that names can be read, and
    large ones reduced. Where boxes are crowded, names of less sure ones make room: they have the score only, or
    nothing, and then the names of the colours stand below.

    Args:
        pixels: of the photograph, 0 to 255, grey or colour.
        boxes: x1, y1, x2, y2 in its pixels; they may reach beyond.
        labels: the class of each box, from 0.
        class_names: of every class.
        scores: of each box; none for truths.
        file: the PNG to write, if any, or memory for it.
        masks: which pixels are each object's, which are tinted in its colour; none for boxes alone.
    """
    height, width = pixels.shape[:2]
    scale = np.clip(max(height, width), _SHORTEST, _LONGEST) / max(height, width)
    tall, wide = max(round(height * scale), 1), max(round(width * scale), 1)
    size = _SIZE * max(1.0, max(tall, wide) / 1000)
    strip = round(2.6 * size)  # for the names of the colours
    for legend in (0, strip):
        figure = Figure(figsize=(wide / _DPI, (tall + legend) / _DPI), dpi=_DPI)
        FigureCanvasAgg(figure)
        axes = figure.add_axes((0, legend / (tall + legend), 1, tall / (tall + legend)))
        if boxes_on(axes, pixels, boxes, labels, class_names, scores, size=size, masks=masks):
            break
    else:
        color_key(figure, sorted(set(np.asarray(labels).tolist())), class_names, strip / 2 / (tall + strip), size)
    return saved(figure, file, _DPI)


def boxes_on(
    axes: Axes,
    pixels: UInt8[np.ndarray, "h w c"],
    boxes: Float[Any, "n 4"],
    labels: Int[Any, " n"],
    class_names: Sequence[str],
    scores: Float[Any, " n"] | None = None,
    *,
    size: float = _SIZE,
    style: Style = "-",
    masks: Sequence[Bool[np.ndarray, "h w"]] | None = None,
) -> bool:
    """Show a photograph in axes whose place is fixed, with boxes as `draw_boxes` has them.

    Args:
        axes: of a figure with a canvas and without automatic layout.
        pixels, boxes, labels, class_names, scores, masks: as in `draw_boxes`.
        size: of the names, in points.
        style: of the boxes' lines.

    Returns:
        Whether every name found room.
    """
    height, width = pixels.shape[:2]
    all_boxes, values = np.asarray(boxes, np.float64).reshape(-1, 4), None if scores is None else np.asarray(scores)
    order = np.arange(len(all_boxes)) if values is None else np.argsort(-values.astype(np.float64), kind="stable")
    picture = as_color(pixels)
    if masks is not None:
        picture = masks_over(picture, [masks[k] for k in order], [class_color(int(labels[k])) for k in order])
    axes.imshow(picture, interpolation="nearest" if max(height, width) < _SHORTEST / 2 else "antialiased")
    axes.set_axis_off()
    axes.set_xlim(-0.5, width - 0.5)
    axes.set_ylim(height - 0.5, -0.5)
    axes.apply_aspect()
    names = drawable_names(class_names)
    for k in order[::-1]:  # the surest above
        outline(axes, all_boxes[k], class_color(int(labels[k])), style, size / 5)
    taken: list[Bbox] = []
    complete = True
    for k in order:
        name = names[int(labels[k])]
        words = [name] if values is None else [f"{name} {values[k]:.2f}", f"{values[k]:.2f}"]
        complete &= _named(axes, all_boxes[k], words, class_color(int(labels[k])), size, taken)
    return complete


def outline(axes: Axes, box: Float[np.ndarray, "4"], color: Any, style: Style = "-", width: float = 1.8) -> None:
    """Draw a box, x1, y1, x2, y2 in pixels whose centres are whole numbers plus a half, with a dark edge."""
    x1, y1, x2, y2 = box - 0.5  # pictures have the centres of pixels at whole numbers
    axes.add_patch(
        Rectangle(
            (x1, y1),
            x2 - x1,
            y2 - y1,
            fill=False,
            edgecolor=color,
            linewidth=width,
            linestyle=style,
            joinstyle="miter",
            path_effects=[Stroke(linewidth=width + 1.4, foreground="black", alpha=0.45), Normal()],
        )
    )


def as_color(pixels: UInt8[np.ndarray, "h w c"]) -> UInt8[np.ndarray, "h w 3"]:
    """Return pixels in colour, grey ones as three equal channels."""
    return pixels if pixels.shape[-1] == 3 else np.repeat(pixels[..., :1], 3, -1)


def color_key(
    figure: Figure,
    labels: Sequence[int],
    class_names: Sequence[str],
    y: float,
    size: float = _SIZE,
    color: Callable[[int], tuple[float, float, float]] = class_color,
) -> None:
    """Write the names of some classes in their colours, in one line as far as it goes, at height `y` of a figure."""
    names = drawable_names(class_names)
    width, x = figure.bbox.width, 8.0
    for label in labels:
        text = figure.text(x / width, y, names[label], fontsize=size, va="center", parse_math=False)
        text.set_bbox(dict(facecolor=color(label), edgecolor="none", pad=2))
        text.set_color(_ink_on(color(label)))
        extent = text.get_window_extent(_renderer(figure))
        if extent.x1 > width - 8:
            text.set_text("\N{HORIZONTAL ELLIPSIS}")
            break
        x = extent.x1 + 14


def _named(
    axes: Axes, box: np.ndarray, words: Sequence[str], color: tuple[float, float, float], size: float, taken: list[Bbox]
) -> bool:
    """Write the first of some words that finds room at a box's corners; return whether that is the first of all."""
    x1, y1, x2, y2 = box - 0.5
    renderer, room = _renderer(axes.figure), axes.get_window_extent()
    edge = 4 * abs(axes.get_xlim()[1] - axes.get_xlim()[0]) / room.width  # where names end, 4 pixels from the border
    (left, right), (top, bottom) = (sorted(limits) for limits in (axes.get_xlim(), axes.get_ylim()))
    for number, word in enumerate(words):
        text = axes.text(0, 0, word, fontsize=size, color=_ink_on(color), parse_math=False, clip_on=True)
        text.set_bbox(dict(facecolor=color, edgecolor="none", pad=1.5, alpha=0.9))
        for x, y, across, up in (
            (x1, y1, "left", "bottom"),
            (x1, y2, "left", "top"),
            (x1, y1, "left", "top"),
            (x2, y1, "right", "bottom"),
            (x2, y2, "right", "top"),
            (x1, y2, "left", "bottom"),
            (x2, y1, "right", "top"),
            (x2, y2, "right", "bottom"),
        ):
            inside = np.clip(x, left + edge, right - edge), np.clip(y, top + edge, bottom - edge)
            text.set(position=inside, ha=across, va=up)
            here = text.get_window_extent(renderer).padded(1.5)
            whole = room.x0 <= here.x0 and here.x1 <= room.x1 and room.y0 <= here.y0 and here.y1 <= room.y1
            if whole and not any(here.overlaps(other) for other in taken):
                taken.append(here)
                return number == 0
        text.remove()
    return False


def _ink_on(color: tuple[float, float, float]) -> str:
    """Return the ink, black or white, that can be read on a colour."""
    red, green, blue = color
    return "black" if 0.299 * red + 0.587 * green + 0.114 * blue > 0.5 else "white"


def _renderer(figure: Any) -> Any:
    return figure.canvas.get_renderer()
