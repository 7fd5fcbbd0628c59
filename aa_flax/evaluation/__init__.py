"""Scores of trained networks."""

from aa_flax.evaluation.classification import Scores, evaluate, make_eval_step

__all__ = ["Scores", "evaluate", "make_eval_step"]
