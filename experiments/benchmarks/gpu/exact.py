"""Relative attention and its gradients in NumPy and float64, one image and one head at a time."""

from collections.abc import Sequence

import numpy as np

Arrays = Sequence[np.ndarray]

NAMES = ("value", "query", "key", "values", "rel_height", "rel_width")
"""Names of what `attend` returns: the result, and the gradients by each argument."""


def attend(arrays: Arrays, scale: float) -> list[np.ndarray]:
    """Return the attended values and the gradients of sum(result * cotangent) by the five inputs, in float64.

    It follows Bello et al. (2019), equations 3 and 4, and needs memory for a few arrays of (h*w)**2 numbers.

    Args:
        arrays: query, key, value, rel_height and rel_width, as in `aa_flax.ops.relative_attention_2d`, and a cotangent
            of the result.
        scale: the factor of the logits.
    """
    query, key, value, rel_height, rel_width, cotangent = (np.asarray(array, np.float64) for array in arrays)
    b, h, w, n, _ = query.shape
    output = np.zeros(value.shape)
    by_query, by_key, by_value, by_height, by_width = (
        np.zeros(array.shape) for array in (query, key, value, rel_height, rel_width)
    )
    for image in range(b):
        for head in range(n):
            at = (image, slice(None), slice(None), head)
            q, k, v, upstream = (array[at].reshape(h * w, -1) for array in (query, key, value, cotangent))
            logits = (q @ k.T).reshape(h, w, h, w)
            logits += _spread(q @ rel_height.T, h, w, axis=0)[:, :, :, None]
            logits += _spread(q @ rel_width.T, h, w, axis=1)[:, :, None, :]
            logits = scale * logits.reshape(h * w, h * w)
            weights = np.exp(logits - logits.max(1, keepdims=True))
            weights /= weights.sum(1, keepdims=True)
            output[at] = (weights @ v).reshape(h, w, -1)
            by_weight = upstream @ v.T
            slopes = scale * weights * (by_weight - (weights * by_weight).sum(1, keepdims=True))
            maps = slopes.reshape(h, w, h, w)
            height, width = _gather(maps.sum(3), axis=0), _gather(maps.sum(2), axis=1)
            by_query[at] = (slopes @ k + height @ rel_height + width @ rel_width).reshape(h, w, -1)
            by_key[at] = (slopes.T @ q).reshape(h, w, -1)
            by_value[at] = (weights.T @ upstream).reshape(h, w, -1)
            by_height += height.T @ q
            by_width += width.T @ q
    return [output, by_query, by_key, by_value, by_height, by_width]


def _spread(by_offset: np.ndarray, h: int, w: int, axis: int) -> np.ndarray:
    """Turn [h*w, 2l-1] by offset into [h, w, l] by key coordinate; l is h on axis 0 and w on axis 1."""
    length = (h, w)[axis]
    by_offset = by_offset.reshape(h, w, -1)
    spread = np.zeros((h, w, length))
    for i in range(length):  # the query's own coordinate: key 0 lies at offset -i
        of_query = (i,) if axis == 0 else (slice(None), i)
        spread[of_query] = by_offset[of_query][..., length - 1 - i : 2 * length - 1 - i]
    return spread


def _gather(by_key: np.ndarray, axis: int) -> np.ndarray:
    """Apply the transpose of `_spread`: [h, w, l] by key coordinate to [h*w, 2l-1] by offset."""
    h, w, length = by_key.shape
    by_offset = np.zeros((h, w, 2 * length - 1))
    for i in range(length):
        of_query = (i,) if axis == 0 else (slice(None), i)
        by_offset[of_query][..., length - 1 - i : 2 * length - 1 - i] = by_key[of_query]
    return by_offset.reshape(h * w, -1)


def errors(found: Arrays, exact: Arrays) -> dict[str, float]:
    """Return, for value and gradients by name, the largest difference over the largest entry of the exact one."""
    return {
        name: float(np.abs(np.asarray(ours, np.float64) - theirs).max() / np.abs(theirs).max())
        for name, ours, theirs in zip(NAMES, found, exact, strict=True)
    }
