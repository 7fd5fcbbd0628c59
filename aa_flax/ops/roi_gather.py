"""RoIAlign that gathers the locations which each bin reads."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float, Int32

from aa_flax.ops.mesh import on_own_images
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
    *,
    adaptive: bool,
) -> Float[Array, "b n oh ow c"]:
    """Return the bins of boxes on maps whose locations, row by row, stand one map after another in `places`.

    Work is four reads a sample whatever the size of the maps; memory is a few times that of the result. Differentiable
    in reverse mode with respect to `places`.

    Args:
        first: the place of the first location of the map that a box is on.
        width: of that map.
        adaptive: whether boxes have fewer samples than there are taps for; then as many are read as one of them has.
    """
    index = first[:, None, None, :, None] + rows.index * width[:, None, None, :, None]
    return _gathered(adaptive, places, rows._replace(index=index), columns)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _gathered(adaptive: bool, places: Array, rows: Taps, columns: Taps) -> Array:
    def read(places: Array, *both: Array) -> Array:
        wide = at_least_float32(places.dtype)

        def add(total: Array, place: Array, weight: Array) -> Array:
            return total + weight * jax.vmap(_read)(places, place).astype(wide)

        rows, columns = Taps(*both[:3]), Taps(*both[3:])
        batch, _, _, n, height = rows.index.shape
        empty = jnp.zeros((batch, n, height, columns.index.shape[-1], places.shape[-1]), wide)
        return _over_taps(adaptive, add, empty, rows, columns).astype(places.dtype)

    return on_own_images(read, (True,) * 7, name="roi_align")(places, *rows, *columns)


def _forward(adaptive: bool, places: Array, rows: Taps, columns: Taps) -> tuple[Array, Any]:
    return _gathered(adaptive, places, rows, columns), (places, rows, columns)


def _backward(adaptive: bool, kept: Any, cotangent: Array) -> tuple[Any, None, None]:
    """Add each bin's gradient to the places that it read, one tap after another into the same memory."""

    def spread(cotangent: Array, places: Array, *both: Array) -> Array:
        wide = at_least_float32(places.dtype)

        def add(total: Array, place: Array, weight: Array) -> Array:
            return jax.vmap(_added)(total, place, weight * cotangent.astype(wide))

        rows, columns = Taps(*both[:3]), Taps(*both[3:])
        return _over_taps(adaptive, add, jnp.zeros(places.shape, wide), rows, columns).astype(places.dtype)

    places, rows, columns = kept
    run = on_own_images(spread, (True,) * 8, name="roi_align")
    return run(cotangent, places, *rows, *columns), None, None


_gathered.defvjp(_forward, _backward)


def _over_taps(adaptive: bool, add: Callable[..., Array], total: Array, rows: Taps, columns: Taps) -> Array:
    """Return `total` after `add(total, place [b, n, oh, ow], weight [b, n, oh, ow, 1])` for each pair of taps."""

    def sample(number: Any, total: Array) -> Array:
        row, column = number // across, number % across
        for i in range(2):
            for j in range(2):
                place = rows.index[:, row, i, :, :, None] + columns.index[:, column, j, :, None, :]
                weight = rows.weight[:, row, i, :, :, None] * columns.weight[:, column, j, :, None, :]
                total = add(total, place, weight[..., None].astype(total.dtype))
        return total

    down, across = (jnp.max(each.count, initial=0) if adaptive else each.index.shape[1] for each in (rows, columns))
    if adaptive or down * across > _UNROLLED:
        return jax.lax.fori_loop(0, down * across, sample, total)
    return functools.reduce(lambda total, number: sample(number, total), range(down * across), total)


def _read(places: Array, place: Array) -> Array:
    return places.at[place].get(mode="promise_in_bounds")


def _added(places: Array, place: Array, values: Array) -> Array:
    return places.at[place].add(values, mode="promise_in_bounds")
