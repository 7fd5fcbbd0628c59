"""Saving figures whose words are data."""

from pathlib import Path

from matplotlib.figure import Figure
from matplotlib.text import Text


def saved(figure: Figure, file: Path | None, dpi: int) -> Figure:
    """Return a figure with its words as they are, no mathematics between dollars, and save it if a file is named."""
    for text in figure.findobj(Text):
        text.set_parse_math(False)
    if file is not None:
        figure.savefig(file, dpi=dpi)
    return figure
