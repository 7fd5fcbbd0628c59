"""Trained networks at work: `aa_flax.load` gives a predictor of photographs, `aa_flax.hub` shares networks.

`AttentionExplorer` loads at first use, because it draws.
"""

from typing import TYPE_CHECKING, Any

from aa_flax.inference.about import About
from aa_flax.inference.loading import load
from aa_flax.inference.predictor import Predictor

if TYPE_CHECKING:
    from aa_flax.inference.explorer import AttentionExplorer

__all__ = ["About", "AttentionExplorer", "Predictor", "load"]


def __getattr__(name: str) -> Any:
    if name != "AttentionExplorer":
        raise AttributeError(f"module 'aa_flax.inference' has no attribute {name!r}")
    from aa_flax.inference.explorer import AttentionExplorer

    return AttentionExplorer
