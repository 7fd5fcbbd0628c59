"""Sizes of training images that change from step to step: multi-scale training with a few fixed sizes.

All images of a batch have one size, so that every size is one compiled program. The size of a step follows from the
seed and the step alone: it is the same in all processes, and for a run that goes on.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

Size = tuple[Any, ...]
"""(height, width) in pixels; of signals as many sides as they have axes."""

_STREAM = 0x51AE5  # sets these draws apart from others of the same seed


def size_of_step(sizes: Sequence[Size], seed: int, step: int) -> Size:
    """Return the one of `sizes` that the batch of a global step has; each is as likely, one listed twice twice so."""
    if len(sizes) == 1:
        return sizes[0]
    (word,) = np.random.SeedSequence(seed, spawn_key=(_STREAM, step)).generate_state(1, np.uint64)
    return sizes[int(word) % len(sizes)]


def largest(sizes: Sequence[Size]) -> Size:
    """Return the size with the most pixels, the first of several."""
    return max(sizes, key=lambda size: size[0] * size[1])
