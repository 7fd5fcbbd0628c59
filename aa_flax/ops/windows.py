"""Maps that each offset within a sliding window reads."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from jaxtyping import Array, Shaped


def shifted(
    padded: Shaped[Array | np.ndarray, "b h w c"], window: Sequence[int], strides: Sequence[int]
) -> Iterator[Any]:
    """Yield, for each offset within the window, row by row, what it reads as the window slides: [b, hs, ws, c]."""
    height, width = (length - size + 1 for length, size in zip(padded.shape[1:3], window, strict=True))
    for i in range(window[0]):
        for j in range(window[1]):
            yield padded[:, i : i + height : strides[0], j : j + width : strides[1]]
