"""Scores of trained networks, as pure functions of their outputs and the true targets."""
