"""RoIAlign that gathers the locations which each bin reads, and whose gradient adds to them.

Work is four reads a sample and channel, whatever the size of the maps, and of several maps each box reads only its own.

Inside, the places of all images and maps stand in one row, and so do the bins of all images: a row is laid out alike
wherever it is used, where a TPU lays arrays of more axes out anew for each gather, each sum into places and each step
of a loop, which was three fifths of what the gradient moved (libtpu 0.0.42.1).
"""

import functools
import itertools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float

from aa_flax.ops.mesh import on_own_images
from aa_flax.ops.roi_taps import Reads, Taps, of_level
from aa_flax.precision import at_least_float32

_WRITTEN_OUT = 4
"""Up to so many samples a bin, reads are written out one after another, which the compiler makes one loop over bins."""


def read(maps: Sequence[Array], reads: Reads, *, adaptive: bool) -> Float[Array, "b n oh ow c"]:
    """Return the bins of boxes.

    Args:
        maps: [b, h, w, c] each.
        reads: what of them.
        adaptive: whether boxes may have fewer samples than there are taps for. As many are read as one of them has.
    """

    def read_all(places: Array, *both: Array) -> Array:
        wide, channels = at_least_float32(places.dtype), places.shape[-1]
        rows, columns = _in_one_row(places.shape[1], *both)
        batch, _, _, boxes, height = rows.location.shape
        width = columns.location.shape[-1]
        row = places.reshape(-1, channels)

        def add(total: Array, place: Array, weight: Array) -> Array:
            return total + weight * row.at[place].get(mode="promise_in_bounds").astype(wide)

        empty = jnp.zeros((batch * boxes * height * width, channels), wide)
        total = _over_taps(add, empty, rows, columns, adaptive, _WRITTEN_OUT)
        # Without the barrier a TPU's compiler lays out what each tap reads as the result, not their sum alone.
        total = jax.lax.optimization_barrier(total.astype(places.dtype))
        return total.reshape(batch, boxes, height, width, channels)

    flat = [each.reshape(each.shape[0], -1, each.shape[-1]) for each in maps]
    places = flat[0] if len(flat) == 1 else jnp.concatenate(flat, 1)
    run = on_own_images(read_all, (True,) * 7, name="roi_align")
    return run(places, *_in_places(maps, reads))


def spread(
    cotangent: Float[Array, "b n oh ow c"], like: Sequence[Array], reads: Reads, *, adaptive: bool
) -> list[Array]:
    """Return the gradients by maps of the shapes of `like`, but for the batch: the transpose of `read`.

    Shares are added tap after tap into the same memory, in a loop, because those of all taps would take many times that
    of the bins.
    """
    wide = at_least_float32(cotangent.dtype)
    ends = [0, *itertools.accumulate(h * w for _, h, w, _ in (each.shape for each in like))]

    def add_all(cotangent: Array, *both: Array) -> Array:
        batch, channels = cotangent.shape[0], cotangent.shape[-1]
        row = cotangent.reshape(-1, channels)

        def add(total: Array, place: Array, weight: Array) -> Array:
            return total.at[place].add(weight * row.astype(wide), mode="promise_in_bounds")

        empty = jnp.zeros((batch * ends[-1], channels), wide)
        total = _over_taps(add, empty, *_in_one_row(ends[-1], *both), adaptive)
        return total.astype(cotangent.dtype).reshape(batch, ends[-1], channels)

    run = on_own_images(add_all, (True,) * 7, name="roi_align")
    total = run(cotangent, *_in_places(like, reads))
    parts = [total[:, start:end] for start, end in itertools.pairwise(ends)]
    return [part.reshape(-1, *each.shape[1:]) for part, each in zip(parts, like, strict=True)]


def _in_places(maps: Sequence[Array], reads: Reads) -> tuple[Array, ...]:
    """Return the taps of both axes, such that the sum of their indices is a place: maps stand one after another."""
    widths = [each.shape[2] for each in maps]
    starts = [0, *itertools.accumulate(each.shape[1] * each.shape[2] for each in maps[:-1])]
    first, width = (of_level(numbers, reads.level, jnp.int32)[:, None, None, :, None] for numbers in (starts, widths))
    return (*reads.rows._replace(location=first + reads.rows.location * width), *reads.columns)


def _in_one_row(places: Any, *both: Array) -> tuple[Taps, Taps]:
    """Return the taps of both axes where each image's places follow those of the image before."""
    rows, columns = Taps(*both[:3]), Taps(*both[3:])
    first = places * jnp.arange(rows.location.shape[0], dtype=jnp.int32)
    return rows._replace(location=rows.location + first[:, None, None, None, None]), columns


def _over_taps(
    add: Callable[..., Array], total: Array, rows: Taps, columns: Taps, adaptive: bool, written_out: int = 0
) -> Array:
    """Return `total` after `add(total, place [bins], weight [bins, 1])` for each pair of taps, bins b·n·oh·ow."""

    def sample(number: Any, total: Array) -> Array:
        row, column = number // across, number % across
        for i in range(2):
            for j in range(2):
                place = rows.location[:, row, i, :, :, None] + columns.location[:, column, j, :, None, :]
                weight = rows.weight[:, row, i, :, :, None] * columns.weight[:, column, j, :, None, :]
                total = add(total, place.reshape(-1), weight.reshape(-1, 1).astype(total.dtype))
        return total

    down, across = (
        jnp.max(each.samples, initial=0) if adaptive else each.location.shape[1] for each in (rows, columns)
    )
    if adaptive or down * across > written_out:
        return jax.lax.fori_loop(0, down * across, sample, total)
    return functools.reduce(lambda total, number: sample(number, total), range(down * across), total)
