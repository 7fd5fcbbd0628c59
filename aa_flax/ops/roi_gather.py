"""RoIAlign that gathers the locations which each bin reads, and whose gradient adds to them.

Work is four reads a sample and channel, whatever the size of the maps, and of several maps each box reads only its own.
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
        wide = at_least_float32(places.dtype)

        def add(total: Array, place: Array, weight: Array) -> Array:
            return total + weight * jax.vmap(_get)(places, place).astype(wide)

        rows, columns = Taps(*both[:3]), Taps(*both[3:])
        batch, _, _, boxes, height = rows.location.shape
        empty = jnp.zeros((batch, boxes, height, columns.location.shape[-1], places.shape[-1]), wide)
        return _over_taps(add, empty, rows, columns, adaptive, _WRITTEN_OUT).astype(places.dtype)

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
        def add(total: Array, place: Array, weight: Array) -> Array:
            return jax.vmap(_add)(total, place, weight * cotangent.astype(wide))

        empty = jnp.zeros((cotangent.shape[0], ends[-1], cotangent.shape[-1]), wide)
        return _over_taps(add, empty, Taps(*both[:3]), Taps(*both[3:]), adaptive).astype(cotangent.dtype)

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


def _over_taps(
    add: Callable[..., Array], total: Array, rows: Taps, columns: Taps, adaptive: bool, written_out: int = 0
) -> Array:
    """Return `total` after `add(total, place [b, n, oh, ow], weight [b, n, oh, ow, 1])` for each pair of taps."""

    def sample(number: Any, total: Array) -> Array:
        row, column = number // across, number % across
        for i in range(2):
            for j in range(2):
                place = rows.location[:, row, i, :, :, None] + columns.location[:, column, j, :, None, :]
                weight = rows.weight[:, row, i, :, :, None] * columns.weight[:, column, j, :, None, :]
                total = add(total, place, weight[..., None].astype(total.dtype))
        return total

    down, across = (
        jnp.max(each.samples, initial=0) if adaptive else each.location.shape[1] for each in (rows, columns)
    )
    if adaptive or down * across > written_out:
        return jax.lax.fori_loop(0, down * across, sample, total)
    return functools.reduce(lambda total, number: sample(number, total), range(down * across), total)


def _get(places: Array, place: Array) -> Array:
    return places.at[place].get(mode="promise_in_bounds")


def _add(places: Array, place: Array, values: Array) -> Array:
    return places.at[place].add(values, mode="promise_in_bounds")
