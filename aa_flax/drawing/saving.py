"""Drawing that the user's settings of matplotlib cannot break, and figures whose words are data."""

import functools
import os
from collections.abc import Callable, Sequence
from functools import wraps
from io import BytesIO
from pathlib import Path
from typing import Any, TypeVar

import matplotlib
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, findfont, get_font
from matplotlib.text import Text

from aa_flax.literal import literal_lines, told_apart

_LONGEST = 40  # characters of a name in a picture


_OURS = {name: value for name, value in matplotlib.rcParamsDefault.items() if not name.startswith("backend")}
Drawing = TypeVar("Drawing", bound=Callable[..., Any])


def in_plain_style(draw: Drawing) -> Drawing:
    """Return a drawing function that draws in matplotlib's own style, whatever a matplotlibrc or the program has set.

    With `text.usetex`, for one, no word could be drawn where there is no LaTeX, and no underscore where there is.
    """

    @wraps(draw)
    def drawn(*args: Any, **kwargs: Any) -> Any:
        with matplotlib.rc_context(_OURS):
            return draw(*args, **kwargs)

    return drawn  # type: ignore[return-value]


def saved(figure: Figure, file: Path | BytesIO | None, dpi: int) -> Figure:
    """Return a figure with its words as they are, and save it as PNG if a file is named.

    Dollars enclose no mathematics and nothing is TeX. Control characters, other than ends of lines, are escapes, and so
    are characters that the font lacks; without that, two words could be the same row of boxes.
    """
    for text in figure.findobj(Text):
        text.set_parse_math(False)
        text.set_usetex(False)
        text.set_text(drawable(text.get_text()))
    if file is not None:
        before, canvas = figure.dpi, FigureCanvasAgg(figure)
        figure.set_dpi(dpi)
        canvas.print_png(file)  # `savefig` would draw everything twice, first for its layout
        figure.set_dpi(before)
    return figure


def drawable(text: str) -> str:
    """Return text whose characters can all be drawn, in as many lines."""
    return _escaped(literal_lines(text))


def drawable_names(names: Sequence[str]) -> list[str]:
    """Return each name as it is drawn, no two the same; one that is cut has its number, from 0, at the end."""
    shown = [drawable(name) for name in told_apart(names)]
    return [
        name if len(name) <= _LONGEST else f"{name[: _LONGEST - 10]}\N{HORIZONTAL ELLIPSIS} ({number})"
        for number, name in enumerate(shown)
    ]


def _escaped(text: str) -> str:
    if text.isascii():
        return text
    known = _characters(tuple(matplotlib.rcParams["font.family"]))
    return "".join(c if c.isspace() or ord(c) in known else c.encode("unicode_escape").decode() for c in text)


@functools.cache
def _characters(families: tuple[str, ...]) -> frozenset[int]:
    """Return the characters that the fonts of some families have, which matplotlib looks into one after the other."""
    found: set[int] = set()
    for family in families:
        try:
            path = findfont(FontProperties(family=[family]), fallback_to_default=False)
        except ValueError:  # not installed
            continue
        found.update(get_font(os.fspath(path)).get_charmap())
    return frozenset(found)
