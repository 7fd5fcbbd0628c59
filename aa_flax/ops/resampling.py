"""Pooling and upsampling of maps [b, h, w, c]."""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float


def average_pool(x: Float[Array, "b h w c"], stride: int) -> Float[Array, "b hs ws c"]:
    """3×3 average pooling, padding 1 that is not counted; h and w become ceil(h / stride) and ceil(w / stride)."""
    window, strides, padding = (1, 3, 3, 1), (1, stride, stride, 1), ((0, 0), (1, 1), (1, 1), (0, 0))
    zero = np.zeros((), x.dtype)
    sums = jax.lax.reduce_window(x, zero, jax.lax.add, window, strides, padding)
    _, h, w, _ = x.shape
    counts = np.outer(*(_pool_counts(length, stride) for length in (h, w)))[None, :, :, None]
    return sums / jnp.asarray(counts, x.dtype)


def _pool_counts(length: int, stride: int) -> np.ndarray:
    """How many of the three positions under each window lie inside the map."""
    centres = stride * np.arange(math.ceil(length / stride))
    return np.minimum(centres + 1, length - 1) - np.maximum(centres - 1, 0) + 1


def upsample(x: Float[Array, "b h w c"], height: int, width: int) -> Float[Array, "b {height} {width} c"]:
    """Bilinear interpolation to height × width with half-pixel centres; the border repeats."""
    if x.shape[1:3] == (height, width):
        return x
    return jax.image.resize(x, (x.shape[0], height, width, x.shape[3]), "bilinear", antialias=False)
