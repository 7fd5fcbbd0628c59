"""Maps that each offset within a sliding window reads."""

import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from jaxtyping import Array, Shaped


def shifted(
    padded: Shaped[Array | np.ndarray, "b *space c"], window: Sequence[int], strides: Sequence[int]
) -> Iterator[Any]:
    """Yield, for each offset within the window, row by row, what it reads as the window slides: [b, *slid, c]."""
    lengths = [length - size + 1 for length, size in zip(padded.shape[1:-1], window, strict=True)]
    for offsets in itertools.product(*map(range, window)):
        axes = zip(offsets, lengths, strides, strict=True)
        yield padded[(slice(None), *(slice(start, start + length, stride) for start, length, stride in axes))]
