"""Layouts of the maps of a block of images, and how the kernels read one image from them and write one back.

    images of a block   x in HBM                 an image         result in HBM
    1                   [images, locations, c]   [lanes, c]       [images, out, locations]
    8, on sublanes      [locations, images, c]   [lanes, c]       [images, out, locations]
    128, on lanes       [locations, c, images]   [c, lanes]       [locations, out, images]

For its convolutions the compiler takes the second layout if channels fill lanes, else the third. Eight images are
copied to float32 once, so that an image's rows can be read with a stride; 128 images are turned (`turning.py`).

If the results of eight images are added to the last channels of a map, their gradient is read from the last 128
channels of that map's gradient, [locations of the result, images, c].
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jaxtyping import Array

from aa_flax.ops.pallas_tpu import turning
from aa_flax.ops.pallas_tpu.shape import LANES, Shape, round_up
from aa_flax.ops.pallas_tpu.tiles import masked, product, repeat

_LARGEST_CHUNK = 64  # locations that are copied at a time


class Place(NamedTuple):
    """Coordinates of a program in the grid."""

    block: Any
    image: Any  # of the block
    group: Any  # of heads
    last_group: Any

    @classmethod
    def here(cls) -> "Place":
        """Return the coordinates of this program. To be called outside conditions, inside which they are unknown."""
        group = pl.program_id(2)
        return cls(pl.program_id(0), pl.program_id(1), group, group == pl.num_programs(2) - 1)


def scratch(shape: Shape, *, backward: bool) -> dict[str, Any]:
    """Return the kernels' scratch for maps: `maps` for x and its gradient, `results` for y or its gradient, `work`."""
    if shape.images == 1:
        return dict(maps=None, results=None, work=None)
    if shape.turned:
        return dict(
            maps=turning.turned_maps(shape, shape.in_features, shape.lanes),
            results=turning.turned_maps(shape, shape.out_features, shape.out_lanes),
            work=turning.workspace(shape),
        )
    tiles = round_up(shape.in_features, LANES) // LANES  # strides need arrays of exactly 128 lanes
    return dict(
        maps=pltpu.VMEM((tiles, shape.lanes * shape.images, LANES), jnp.float32),
        results=pltpu.VMEM((1, shape.out_lanes * shape.images, LANES), jnp.float32)
        if backward and shape.takes_last_tile
        else None,
        work=None,
    )


def map_spec(shape: Shape) -> pl.BlockSpec:
    """Return the block spec by which the kernels receive x and return its gradient."""
    if shape.turned:
        return pl.BlockSpec(memory_space=pl.ANY)
    if shape.images == 1:
        return pl.BlockSpec((1, shape.lanes, shape.in_features), lambda block, image, group: (block, 0, 0))
    return pl.BlockSpec((shape.places, shape.images, shape.in_features), lambda block, image, group: (0, block, 0))


def result_spec(shape: Shape, *, backward: bool) -> pl.BlockSpec:
    """Return the block spec by which the kernels return the result or, with `backward`, receive its gradient."""
    if shape.turned:
        return pl.BlockSpec(memory_space=pl.ANY)
    if backward and shape.takes_last_tile:
        tile = shape.all_features // LANES - 1
        return pl.BlockSpec((shape.out_places, shape.images, LANES), lambda block, image, group: (0, block, tile))
    index = lambda block, image, group: (block * shape.images + image, 0, 0)  # noqa: E731
    return pl.BlockSpec((1, shape.out_features, shape.out_lanes), index)


def load(shape: Shape, place: Place, x: Any, maps: Any, work: Any) -> None:
    """Prepare the images of a block, before the first of them is read."""
    if shape.images == 1:
        return

    @pl.when((place.image == 0) & (place.group == 0))
    def _() -> None:
        if shape.turned:
            turning.turn_in(shape, x, maps, work, place.block)
        else:
            _copy_in(x, maps, shape.lanes)


def read(shape: Shape, place: Place, x: Any, maps: Any) -> Array:
    """Return the program's image, finite at locations outside the map."""
    if shape.images == 1:
        return masked(x[0], 0, shape.places)
    if shape.turned:
        return turning.read(shape, maps, place.image)
    here = pl.ds(place.image, shape.lanes, stride=shape.images)
    rows = jnp.concatenate([maps.at[tile][here, :] for tile in range(maps.shape[0])], 1)
    return rows[:, : shape.in_features].astype(shape.dtype)


def write(shape: Shape, place: Place, image: Array, dx: Any, maps: Any, work: Any) -> None:
    """Write an image's gradient, given in float32, into `dx`; it overwrites the image in `maps`."""
    if shape.images == 1:
        dx[0] = image.astype(dx.dtype)
        return
    if shape.turned:
        turning.write(maps, place.image, image.astype(shape.dtype))
    else:
        _write_rows(shape, maps, place.image, image)

    @pl.when(place.image == shape.images - 1)
    def _() -> None:
        if shape.turned:
            turning.turn_out(shape, maps, dx, work, place.block)
        else:
            _copy_out(maps, dx)


def write_result(shape: Shape, place: Place, result: Array, y: Any, results: Any, work: Any) -> None:
    """Write an image's result [out_rows, out_lanes] into `y`."""
    if not shape.turned:
        y[0] = result.astype(y.dtype)
        return
    turning.write(results, place.image, result.astype(shape.dtype))

    @pl.when(place.image == shape.images - 1)
    def _() -> None:
        turning.turn_out(shape, results, y, work, place.block)


def read_result(shape: Shape, place: Place, dy: Any, results: Any, work: Any) -> Array:
    """Return the result's gradient for the program's image, [out_rows, out_lanes] in float32, zero outside the map."""
    if shape.takes_last_tile:
        return _from_last_tile(shape, place, dy, results)
    if not shape.turned:
        # in float32, because Mosaic has no mask for a few rows of bfloat16
        return masked(dy[0].astype(jnp.float32), 1, shape.out_places)

    @pl.when(place.image == 0)
    def _() -> None:
        turning.turn_in(shape, dy, results, work, place.block)

    return turning.read(shape, results, place.image).astype(jnp.float32)


def _write_rows(shape: Shape, maps: Any, number: Any, image: Array) -> None:
    here = pl.ds(number, shape.lanes, stride=shape.images)
    for tile in range(maps.shape[0]):
        part = image[:, tile * LANES : (tile + 1) * LANES]
        if missing := LANES - part.shape[1]:
            part = jnp.concatenate([part, jnp.zeros((shape.lanes, missing), part.dtype)], 1)
        maps.at[tile][here, :] = part


def _from_last_tile(shape: Shape, place: Place, dy: Any, results: Any) -> Array:
    @pl.when(place.image == 0)
    def _() -> None:
        _copy_in(dy, results, shape.out_lanes)

    rows = results.at[0][pl.ds(place.image, shape.out_lanes, stride=shape.images), :].astype(shape.dtype)
    wanted = jax.lax.broadcasted_iota(jnp.int32, (shape.out_features, LANES), 0) + LANES - shape.out_features
    chosen = wanted == jax.lax.broadcasted_iota(jnp.int32, (shape.out_features, LANES), 1)
    return product(shape, chosen.astype(jnp.float32).astype(shape.dtype), rows, (1, 1))


def _copy_in(block: Any, rows: Any, lanes: int) -> None:
    """Fill `rows` [tiles, lanes * images, 128] in float32 from a block [locations, images, c], zero outside the map."""
    places, images, features = block.shape

    def one(here: Any, there: Any) -> None:
        values = block[here].astype(jnp.float32).reshape(-1, features)
        for tile in range(rows.shape[0]):
            part = values[:, tile * LANES : (tile + 1) * LANES]
            rows.at[tile][there, : part.shape[1]] = part

    _each_chunk(places, images, one)
    if missing := (lanes - places) * images:
        rows[:, places * images :, :] = jnp.zeros((rows.shape[0], missing, LANES), jnp.float32)


def _copy_out(rows: Any, block: Any) -> None:
    """Undo `_copy_in`: fill the block from `rows`."""
    places, images, features = block.shape

    def one(here: Any, there: Any) -> None:
        values = jnp.concatenate([rows.at[tile][there, :] for tile in range(rows.shape[0])], 1)[:, :features]
        block[here] = values.reshape(-1, images, features).astype(block.dtype)

    _each_chunk(places, images, one)


def _each_chunk(places: int, images: int, body: Any) -> None:
    """Call `body` with the locations of a block, some at a time, and with their rows."""
    chunk = max(size for size in range(1, _LARGEST_CHUNK + 1) if places % size == 0)

    def one(index: Any, carry: Any) -> Any:
        size = chunk * images
        body(pl.ds(index * chunk, chunk), pl.ds(pl.multiple_of(index * size, images), size))
        return carry

    repeat(places // chunk, one, 0)
