"""Max pooling that stores where each maximum lies, for its gradient."""

import functools
import math
from typing import Any, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from aa_flax.ops.platform import target_platform
from aa_flax.ops.windows import shifted

Padding = Literal["symmetric", "same"]


@functools.partial(jax.jit, static_argnums=(1, 2, 3))  # the name lets FLOP counts pass over it
def max_pool(
    x: Float[Array, "b h w c"], stride: int, window: int = 3, padding: Padding = "symmetric"
) -> Float[Array, "b hs ws c"]:
    """Return the maximum over window×window locations every `stride`.

    With "symmetric" padding, (window - 1) // 2 on every side, sizes are PyTorch's: floor((h + 2 padding - window) /
    stride) + 1. With "same" they are TensorFlow's, ceil(h / stride), for which the map is padded by what the windows
    need, the odd row and column after it: a 3×3 window at stride 2 has none before and one after an even side.

    The gradient goes to the first location of a
    window, row by row, that holds its maximum, ties included; a NaN is the maximum of its window. This is the gradient
    of `jax.lax.reduce_window`, except for windows with a NaN or with -inf alone, where the padding can receive it.

    A TPU has an instruction for the gradient of a window reduction. On other devices XLA would read `x` again for it,
    on NVIDIA GPUs as a second reduction and a scatter. Instead one byte is kept for each window there: where in the
    window its maximum lies. Differentiable once, in reverse mode: `jax.jvp` raises TypeError.

    Raises:
        TypeError: numbers that are not floating-point.
        ValueError: a stride or window below 1, a window of more than 127 locations, or one that is larger than the
            padded map.
    """
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise TypeError(f"x must be of a floating-point dtype, got {x.dtype}")
    for name, number in (("stride", stride), ("window", window)):
        if not isinstance(number, int | np.integer) or number < 1:
            raise ValueError(f"{name} must be a whole number of at least 1, got {number!r}")
    if window * window > 127:
        raise ValueError(f"window must be at most 11, got {window}")
    if padding not in get_args(Padding):
        raise ValueError(f"padding must be one of {get_args(Padding)}, got {padding!r}")
    if padding == "symmetric" and min(x.shape[1:3]) + 2 * ((window - 1) // 2) < window:
        raise ValueError(f"window={window} is larger than a padded {x.shape[1]}x{x.shape[2]} map")
    windows = _Windows(stride, window, padding)
    if target_platform() == "onnx":
        return _shift_by_shift(windows, x)
    by_window, kept = (functools.partial(pool, windows) for pool in (_by_window, _kept))
    return jax.lax.platform_dependent(x, tpu=by_window, default=kept)


class _Windows(NamedTuple):
    """Where the windows lie: every `stride` locations, `window` of them wide."""

    stride: int
    window: int
    padding: Padding

    def pads(self, x: Any) -> tuple[tuple[int, int], ...]:
        """Return the padding of all axes of a map, before and after."""
        return ((0, 0), *(self._pad(side) for side in x.shape[1:3]), (0, 0))

    def _pad(self, side: int) -> tuple[int, int]:
        if self.padding == "symmetric":
            return ((self.window - 1) // 2,) * 2
        missing = max((math.ceil(side / self.stride) - 1) * self.stride + self.window - side, 0)
        return missing // 2, missing - missing // 2


def _by_window(windows: _Windows, x: Array) -> Array:
    low = np.asarray(-np.inf, x.dtype)
    sizes, strides = (1, windows.window, windows.window, 1), (1, windows.stride, windows.stride, 1)
    return jax.lax.reduce_window(x, low, jax.lax.max, sizes, strides, windows.pads(x))


def _shift_by_shift(over: _Windows, x: Array) -> Array:
    """Return the maxima, by one operation for each location of a window, of which no runtime lacks any.

    ONNX's own maximum over windows is of maps [b, c, h, w] alone.
    """
    padded = jnp.pad(x, over.pads(x), constant_values=-jnp.inf)
    return functools.reduce(jnp.maximum, shifted(padded, (over.window,) * 2, (over.stride,) * 2))


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _kept(windows: _Windows, x: Array) -> Array:
    return _forward(windows, x)[0]


def _forward(over: _Windows, x: Array) -> tuple[Array, Any]:
    """Return the maxima, and the index of the first location of each window, row by row, that holds its maximum."""
    pads, sizes, strides = over.pads(x), (over.window,) * 2, (over.stride,) * 2
    windows = list(shifted(jnp.pad(x, pads, constant_values=-jnp.inf), sizes, strides))
    inside = shifted(np.pad(np.ones((1, *x.shape[1:3], 1), bool), pads), sizes, strides)
    largest = jnp.full_like(windows[0], -jnp.inf)
    first = jnp.full(largest.shape, -1, jnp.int8)
    for place, (candidate, within) in enumerate(zip(windows, inside, strict=True)):
        better = (candidate > largest) | (jnp.isnan(candidate) & ~jnp.isnan(largest)) | ((first < 0) & within)
        largest, first = jnp.where(better, candidate, largest), jnp.where(better, jnp.int8(place), first)
    return largest, (first, jnp.zeros((0, *x.shape[1:3]), jnp.int8))


def _backward(over: _Windows, kept: tuple[Array, Array], dy: Array) -> tuple[Array]:
    """Sum, at each location of the map, the gradients that the windows over it send there.

    Row y of the map lies in the windows floor((y + padding) / stride) - t for t = 0, 1, ...; in each of them it is row
    (y + padding) % stride + t * stride. The same holds for columns.
    """
    first, empty = kept
    stride, window, _ = over
    reach = math.ceil(window / stride)
    sides = zip(empty.shape[1:], dy.shape[1:3], over.pads(empty)[1:3], strict=True)
    axes = [_Axis(length, number, stride, window, reach, start) for length, number, (start, _) in sides]
    dx: Any = 0
    for rows in range(reach):
        for columns in range(reach):
            sent, where = (_spread(array, axes, (rows, columns)) for array in (dy, first))
            here = window * axes[0].seen_as(rows)[:, None] + axes[1].seen_as(columns)[None, :]
            inside = (axes[0].inside(rows)[:, None] & axes[1].inside(columns)[None, :])[None, :, :, None]
            hit = inside & (where == jnp.asarray(here, jnp.int8)[None, :, :, None])
            dx += jnp.where(hit, sent, jnp.zeros_like(sent))
    return (dx,)


_kept.defvjp(_forward, _backward)


class _Axis:
    """The windows along one axis of the map."""

    def __init__(self, length: int, number: int, stride: int, window: int, reach: int, start: int) -> None:
        self.length, self.number, self.stride, self.window, self.reach = length, number, stride, window, reach
        self.start = start  # the padding before the map
        self.places = np.arange(length) + self.start

    def seen_as(self, back: int) -> np.ndarray:
        """Return which row of a window each location is; that window lies `back` before the last one over it."""
        return self.places % self.stride + back * self.stride

    def inside(self, back: int) -> np.ndarray:
        """Return whether that window exists, and whether it covers the location."""
        windows = self.places // self.stride - back
        return (windows >= 0) & (windows < self.number) & (self.seen_as(back) < self.window)


def _spread(array: Array, axes: list[_Axis], back: tuple[int, int]) -> Array:
    """Return for each location of the map the value of the window `back` before the last one over it, zero if none."""
    for dimension, (axis, steps) in enumerate(zip(axes, back, strict=True), 1):
        count = -(-(axis.start + axis.length) // axis.stride)
        pad = [(0, 0)] * 4
        pad[dimension] = (steps, max(count - axis.number - steps, 0))
        repeated = jnp.repeat(jnp.pad(array, pad), axis.stride, dimension)
        array = jax.lax.slice_in_dim(repeated, axis.start, axis.start + axis.length, axis=dimension)
    return array
