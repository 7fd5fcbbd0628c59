"""RoIAlign that gathers the locations which each bin reads."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float, Int32

from aa_flax.ops.roi_taps import Taps
from aa_flax.precision import at_least_float32

_UNROLLED = 4
"""Up to so many samples a bin, reads are written out one after another, which the compiler makes one loop over bins."""


def gathered(
    places: Float[Array, "b places c"],
    first: Int32[Array, "b n"],
    width: Int32[Array, "b n"],
    rows: Taps,
    columns: Taps,
) -> Float[Array, "b n oh ow c"]:
    """Return the bins of boxes on maps whose locations, row by row, stand one map after another in `places`.

    Memory is a few times that of the result, and work is four reads a sample whatever the size of the maps.
    Differentiable in reverse mode with respect to `places`; each tap is computed again for the gradient.

    Args:
        first: the place of the first location of the map that a box is on.
        width: of that map.
    """
    index = first[..., None] + rows.index * width[..., None]
    return _gathered(places, rows._replace(index=index), columns)


@jax.custom_vjp
def _gathered(places: Array, rows: Taps, columns: Taps) -> Array:
    wide = at_least_float32(places.dtype)

    def add(total: Array, place: Array, weight: Array) -> Array:
        return total + weight * jax.vmap(_read)(places, place).astype(wide)

    shape = (*rows.index.shape[2:], columns.index.shape[-1], places.shape[-1])
    return _over_taps(add, jnp.zeros(shape, wide), rows, columns).astype(places.dtype)


def _forward(places: Array, rows: Taps, columns: Taps) -> tuple[Array, Any]:
    return _gathered(places, rows, columns), (places, rows, columns)


def _backward(kept: Any, cotangent: Array) -> tuple[Any, None, None]:
    """Add each bin's gradient to the places that it read, one tap after another into the same memory."""
    places, rows, columns = kept
    wide = at_least_float32(places.dtype)

    def add(total: Array, place: Array, weight: Array) -> Array:
        return jax.vmap(_added)(total, place, weight * cotangent.astype(wide))

    total = _over_taps(add, jnp.zeros(places.shape, wide), rows, columns)
    return total.astype(places.dtype), None, None


_gathered.defvjp(_forward, _backward)


def _over_taps(add: Any, total: Array, rows: Taps, columns: Taps) -> Array:
    """Return `total` after `add(total, place [b, n, oh, ow], weight [b, n, oh, ow, 1])` for each tap of each axis."""

    def sample(number: Any, total: Array) -> Array:
        row, column = number // columns.most, number % columns.most
        for i in range(2):
            for j in range(2):
                place = rows.index[row, i][..., :, None] + columns.index[column, j][..., None, :]
                weight = rows.weight[row, i][..., :, None] * columns.weight[column, j][..., None, :]
                total = add(total, place, weight[..., None].astype(total.dtype))
        return total

    number = rows.most * columns.most
    if isinstance(number, int) and number <= _UNROLLED:
        return functools.reduce(lambda total, each: sample(each, total), range(number), total)
    return jax.lax.fori_loop(0, number, sample, total)


def _read(places: Array, place: Array) -> Array:
    return places.at[place].get(mode="promise_in_bounds")


def _added(places: Array, place: Array, values: Array) -> Array:
    return places.at[place].add(values, mode="promise_in_bounds")
