"""The ledger: figures that the three papers print, beside ours; a module for each paper, and `counting` for all."""

from aa_flax.analysis.ledger import bello, bello_detection, touvron, zhu
from aa_flax.analysis.ledger.counting import difference

__all__ = ["bello", "bello_detection", "difference", "markdown", "touvron", "zhu"]


def markdown() -> str:
    """Return the whole ledger as Markdown."""
    head = [
        "# Ledger: the papers' counts beside ours",
        "",
        "Made by `python -m aa_flax.ledger`. `=` means that ours rounds to the printed figure.",
    ]
    return "\n".join([*head, *bello.lines(), *bello_detection.lines(), *zhu.lines(), *touvron.lines()]) + "\n"
