"""Average pooling and linear resizing of signals, maps and volumes [b, *space, c]."""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from aa_flax.ops.mesh import over_batch
from aa_flax.ops.platform import target_platform
from aa_flax.precision import at_least_float32


def average_pool(x: Float[Array, "b *space c"], stride: int, *, window: int = 3) -> Float[Array, "b *pooled c"]:
    """Return the mean over window×window locations every `stride`; locations outside the map do not count.

    The first window starts (window - 1) // 2 before the map (1 for the 3×3 of the paper, 0 for a 2×2), and each side,
    of which a space may have any number, becomes ceil(side / stride).
    """
    counts, sums = _window_sums(x, stride, window)
    return sums / jnp.asarray(counts, x.dtype)


def average_pool_valid(
    x: Float[Array, "b *space c"], valid: Bool[Array, "b *space"], stride: int, *, window: int = 3
) -> Float[Array, "b *pooled c"]:
    """Return `average_pool` in which only the locations that are `valid` count; 0 where a window has none."""
    inside = valid[..., None].astype(x.dtype)
    _, sums = _window_sums(jnp.where(valid[..., None], x, 0), stride, window)
    _, counts = _window_sums(inside, stride, window)
    return sums / jnp.maximum(counts, 1)


def _window_sums(x: Array, stride: int, window: int) -> tuple[np.ndarray, Array]:
    """Return how many locations of the space each window has, [1, *pooled, 1], and the sums over them."""
    spans = [_Span(length, stride, window) for length in x.shape[1:-1]]
    axes = len(spans)
    padding = ((0, 0), *((span.before, span.after) for span in spans), (0, 0))
    pooled = tuple(len(span.counts) for span in spans)
    platform = target_platform()
    if platform == "onnx" or (platform == "cpu" and window > stride):
        # ONNX has sums over windows of maps [b, c, h, w] alone. On CPUs the gradient of a reduction over overlapping
        # windows uses one core and takes four times as long.
        sums = _sums_by_axis(jnp.pad(x, padding), stride, window, pooled)
    else:
        zero, windows, strides = np.zeros((), x.dtype), (1, *(window,) * axes, 1), (1, *(stride,) * axes, 1)
        sums = jax.lax.reduce_window(x, zero, jax.lax.add, windows, strides, padding)
    counts = functools.reduce(np.multiply.outer, (span.counts for span in spans))
    return counts[None, ..., None], sums


def _sums_by_axis(padded: Array, stride: int, window: int, size: tuple[int, ...]) -> Array:
    """Return the sums over windows along one axis after the other, as sums of shifted maps."""
    for axis, length in enumerate(size, 1):
        last = stride * (length - 1) + 1
        shifts = (jax.lax.slice_in_dim(padded, i, i + last, stride, axis) for i in range(window))
        padded = functools.reduce(jnp.add, shifts)
    return padded


class _Span:
    """The windows along one axis: the padding before and after, and how many locations of the map each covers."""

    def __init__(self, length: int, stride: int, window: int) -> None:
        self.before = (window - 1) // 2
        starts = stride * np.arange(math.ceil(length / stride)) - self.before
        ends = starts + window
        self.after = max(int(ends[-1]) - length, 0)
        self.counts = np.minimum(ends, length) - np.maximum(starts, 0)


@functools.partial(jax.jit, static_argnums=1)  # the name lets FLOP counts tell interpolation from layers
def resize_linear(x: Float[Array, "b *space c"], size: tuple[int, ...]) -> Float[Array, "b *new_space c"]:
    """Return a signal, map or volume interpolated linearly along each axis, with half-pixel centres; borders repeat.

    Where a side shrinks, the two locations around each centre count and no others. This is PyTorch's `interpolate` with
    align_corners=False and without antialiasing.
    """
    if x.shape[1:-1] == size:
        return x
    if target_platform() == "onnx":  # a resize by jax2onnx asks for a batch that is a number
        for axis, lengths in enumerate(zip(x.shape[1:-1], size, strict=True), 1):
            weights = jnp.asarray(bilinear_weights(*lengths), x.dtype)
            x = jnp.moveaxis(jnp.tensordot(x, weights, (axis, 1)), -1, axis)
        return x
    return jax.image.resize(x, (x.shape[0], *size, x.shape[-1]), "linear", antialias=False)


def resize_bilinear(x: Float[Array, "b h w c"], height: int, width: int) -> Float[Array, "b {height} {width} c"]:
    """Return the map interpolated bilinearly to height × width, see `resize_linear`."""
    return resize_linear(x, (height, width))


def bilinear_weights(length: int, new_length: int) -> Float[np.ndarray, "{new_length} {length}"]:
    """Return the weight of each location along an axis in each new location, as `resize_bilinear` interpolates."""
    centres = np.clip((np.arange(new_length) + 0.5) * length / new_length - 0.5, 0, length - 1)
    return np.maximum(1 - np.abs(centres[:, None] - np.arange(length)), 0)


def resize_nearest(x: Float[Array, "b h w c"], height: int, width: int) -> Float[Array, "b {height} {width} c"]:
    """Return the map in which each new location has the value of the one that its centre lies in."""
    if target_platform() == "onnx":
        for axis, (length, new) in enumerate(zip(x.shape[1:3], (height, width), strict=True), 1):
            x = jnp.take(x, ((np.arange(new) + 0.5) * length / new).astype(np.int32), axis)
        return x
    return jax.image.resize(x, (x.shape[0], height, width, x.shape[-1]), "nearest")


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
