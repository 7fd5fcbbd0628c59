"""Drawing that the user's settings of matplotlib cannot break, and figures whose words are data."""

from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any, TypeVar

import matplotlib
from matplotlib.figure import Figure
from matplotlib.text import Text

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


def saved(figure: Figure, file: Path | None, dpi: int) -> Figure:
    """Return a figure with its words as they are, no mathematics between dollars, and save it if a file is named."""
    for text in figure.findobj(Text):
        text.set_parse_math(False)
    if file is not None:
        figure.savefig(file, dpi=dpi)
    return figure
