"""Average pooling and bilinear resizing of maps [b, h, w, c]."""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from aa_flax.ops.mesh import over_batch
from aa_flax.ops.platform import target_platform
from aa_flax.precision import at_least_float32


def average_pool(x: Float[Array, "b h w c"], stride: int, *, window: int = 3) -> Float[Array, "b hs ws c"]:
    """Return the mean over window×window locations every `stride`; locations outside the map do not count.

    The first window starts (window - 1) // 2 before the map (1 for the 3×3 of the paper, 0 for a 2×2), and h and w
    become ceil(h / stride) and ceil(w / stride).
    """
    spans = [_Span(length, stride, window) for length in x.shape[1:3]]
    padding = ((0, 0), *((span.before, span.after) for span in spans), (0, 0))
    if target_platform() == "cpu" and window > stride:
        # There the gradient of a reduction over overlapping windows uses one core and takes four times as long.
        sums = _sums_by_axis(jnp.pad(x, padding), stride, window, (len(spans[0].counts), len(spans[1].counts)))
    else:
        zero = np.zeros((), x.dtype)
        sums = jax.lax.reduce_window(x, zero, jax.lax.add, (1, window, window, 1), (1, stride, stride, 1), padding)
    counts = np.outer(spans[0].counts, spans[1].counts)[None, :, :, None]
    return sums / jnp.asarray(counts, x.dtype)


def _sums_by_axis(padded: Array, stride: int, window: int, size: tuple[int, int]) -> Array:
    """Return the sums over windows of rows, then of columns, as sums of shifted maps."""
    last_row, last_column = (stride * (length - 1) + 1 for length in size)
    rows = functools.reduce(jnp.add, (padded[:, i : i + last_row : stride] for i in range(window)))
    return functools.reduce(jnp.add, (rows[:, :, j : j + last_column : stride] for j in range(window)))


class _Span:
    """The windows along one axis: the padding before and after, and how many locations of the map each covers."""

    def __init__(self, length: int, stride: int, window: int) -> None:
        self.before = (window - 1) // 2
        starts = stride * np.arange(math.ceil(length / stride)) - self.before
        ends = starts + window
        self.after = max(int(ends[-1]) - length, 0)
        self.counts = np.minimum(ends, length) - np.maximum(starts, 0)


@functools.partial(jax.jit, static_argnums=(1, 2))  # the name lets FLOP counts tell interpolation from layers
def resize_bilinear(x: Float[Array, "b h w c"], height: int, width: int) -> Float[Array, "b {height} {width} c"]:
    """Return the map interpolated bilinearly to height × width, with half-pixel centres; the border repeats.

    Where a side shrinks, the two locations around each centre count and no others. This is PyTorch's `interpolate` with
    align_corners=False and without antialiasing.
    """
    if x.shape[1:3] == (height, width):
        return x
    return jax.image.resize(x, (x.shape[0], height, width, x.shape[3]), "bilinear", antialias=False)


def bilinear_weights(length: int, new_length: int) -> Float[np.ndarray, "{new_length} {length}"]:
    """Return the weight of each location along an axis in each new location, as `resize_bilinear` interpolates."""
    centres = np.clip((np.arange(new_length) + 0.5) * length / new_length - 0.5, 0, length - 1)
    return np.maximum(1 - np.abs(centres[:, None] - np.arange(length)), 0)


def resize_planes(x: Float[Array, "b c h w"], height: int, width: int) -> Float[Array, "b c {height} {width}"]:
    """Return what `resize_bilinear` does, of maps [b, c, h, w] whose channels come before the locations."""
    rows, columns = (
        jnp.asarray(bilinear_weights(*lengths), x.dtype) for lengths in ((x.shape[2], height), (x.shape[3], width))
    )

    def resize(x: Array) -> Array:
        across = jnp.matmul(x, columns.T, precision="highest")
        return jnp.matmul(jnp.broadcast_to(rows, (*x.shape[:2], *rows.shape)), across, precision="highest")

    return over_batch(resize, (True,))(x)


@functools.partial(jax.jit, static_argnums=1)  # the name lets FLOP counts tell pooling from layers
def adaptive_average_pool(x: Float[Array, "b h w c"], bins: int) -> Float[Array, "b {bins} {bins} c"]:
    """Return the means over bins × bins rectangles that cover the map, and may share locations.

    Of n bins, bin i of an axis goes from location floor(i · length / n) to before ceil((i + 1) · length / n), as in
    PyTorch's `adaptive_avg_pool2d`; an axis shorter than n repeats locations. Sums are in at least float32.
    """
    compute = at_least_float32(x.dtype)
    rows, columns = (jnp.asarray(bin_weights(length, bins), compute) for length in x.shape[1:3])
    exact: Any = dict(preferred_element_type=compute, precision="highest")
    means = jnp.einsum("ih,bhwc->biwc", rows, x.astype(compute), **exact)
    return jnp.einsum("jw,biwc->bijc", columns, means, **exact).astype(x.dtype)


def bin_weights(length: int, bins: int) -> Float[np.ndarray, "{bins} {length}"]:
    """Return the weight of each location along an axis in the mean of each bin of `adaptive_average_pool`."""
    starts, ends = (np.arange(bins) * length) // bins, -(-(np.arange(1, bins + 1) * length) // bins)
    places = np.arange(length)
    inside = (places >= starts[:, None]) & (places < ends[:, None])
    return inside / (ends - starts)[:, None]
