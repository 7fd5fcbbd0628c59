"""Trained networks at work: `aa_flax.load` gives a predictor of photographs, `aa_flax.hub` shares networks."""

from aa_flax.inference.about import About
from aa_flax.inference.loading import load
from aa_flax.inference.predictor import Predictor

__all__ = ["About", "Predictor", "load"]
