"""Scores of trained networks, as pure functions of what they say and what is true."""
