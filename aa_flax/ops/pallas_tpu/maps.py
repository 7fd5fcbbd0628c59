"""Where the maps of a block of images lie, and how the kernels take one image from them and give one back.

    images of a block   x in HBM                 an image         result in HBM
    1                   [images, places, c]      [lanes, c]       [images, out, places]
    8, on sublanes      [places, images, c]      [lanes, c]       [images, out, places]
    128, on lanes       [places, c, images]      [c, lanes]       [places, out, images]

The compiler lays maps out for its convolutions as the second where channels fill lanes, else as the third. Eight images
are copied to float32 once, so that an image's rows can be read with a stride; 128 are turned (`turning.py`).
"""

from typing import Any, NamedTuple

import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jaxtyping import Array

from aa_flax.ops.pallas_tpu import turning
from aa_flax.ops.pallas_tpu.shape import LANES, Shape, round_up
from aa_flax.ops.pallas_tpu.tiles import masked, repeat


class Place(NamedTuple):
    """Where in the grid a program is."""

    block: Any
    image: Any  # of the block
    group: Any  # of heads
    last_group: Any

    @classmethod
    def here(cls) -> "Place":
        """Of this program; asked for outside conditions, where it is not known."""
        group = pl.program_id(2)
        return cls(pl.program_id(0), pl.program_id(1), group, group == pl.num_programs(2) - 1)


def scratch(shape: Shape) -> dict[str, Any]:
    """The kernels' scratch for maps: `maps` of x and its gradient, `results` of y or its gradient, `work`."""
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
        results=None,
        work=None,
    )


def map_spec(shape: Shape) -> pl.BlockSpec:
    """How the kernels get x and give its gradient."""
    if shape.turned:
        return pl.BlockSpec(memory_space=pl.ANY)
    if shape.images == 1:
        return pl.BlockSpec((1, shape.lanes, shape.in_features), lambda block, image, group: (block, 0, 0))
    return pl.BlockSpec((shape.places, shape.images, shape.in_features), lambda block, image, group: (0, block, 0))


def result_spec(shape: Shape) -> pl.BlockSpec:
    """How the kernels give the result and get its gradient."""
    if shape.turned:
        return pl.BlockSpec(memory_space=pl.ANY)
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
            _copy_in(shape, x, maps)


def read(shape: Shape, place: Place, x: Any, maps: Any) -> Array:
    """The grid's image, finite at places outside the map."""
    if shape.images == 1:
        return masked(x[0], 0, shape.places)
    if shape.turned:
        return turning.read(shape, maps, place.image)
    here = pl.ds(place.image, shape.lanes, stride=shape.images)
    rows = jnp.concatenate([maps.at[tile][here, :] for tile in range(maps.shape[0])], 1)
    return rows[:, : shape.in_features].astype(shape.dtype)


def write(shape: Shape, place: Place, image: Array, dx: Any, maps: Any, work: Any) -> None:
    """Put an image's gradient, in float32, into `dx`; it takes the image's place in `maps`."""
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
            _copy_out(shape, maps, dx)


def write_result(shape: Shape, place: Place, result: Array, y: Any, results: Any, work: Any) -> None:
    """Put an image's result [out_rows, out_lanes] into `y`."""
    if not shape.turned:
        y[0] = result.astype(y.dtype)
        return
    turning.write(results, place.image, result.astype(shape.dtype))

    @pl.when(place.image == shape.images - 1)
    def _() -> None:
        turning.turn_out(shape, results, y, work, place.block)


def read_result(shape: Shape, place: Place, dy: Any, results: Any, work: Any) -> Array:
    """[out_rows, out_lanes] of the grid's image in float32, zeros at places outside the map."""
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


def _copy_in(shape: Shape, block: Any, maps: Any) -> None:
    """Rows [tiles, lanes * images, 128] in float32 from a block [places, images, c]."""

    def one(chunk: Any, carry: Any) -> Any:
        places, here = _chunk(shape, chunk)
        values = block[places].astype(jnp.float32).reshape(shape.chunk * shape.images, shape.in_features)
        for tile in range(maps.shape[0]):
            part = values[:, tile * LANES : (tile + 1) * LANES]
            maps.at[tile][here, : part.shape[1]] = part
        return carry

    repeat(shape.places // shape.chunk, one, 0)
    if missing := (shape.lanes - shape.places) * shape.images:
        maps[:, shape.places * shape.images :, :] = jnp.zeros((maps.shape[0], missing, LANES), jnp.float32)


def _copy_out(shape: Shape, maps: Any, block: Any) -> None:
    """Undoes `_copy_in`."""

    def one(chunk: Any, carry: Any) -> Any:
        places, here = _chunk(shape, chunk)
        values = jnp.concatenate([maps.at[tile][here, :] for tile in range(maps.shape[0])], 1)[:, : shape.in_features]
        block[places] = values.reshape(shape.chunk, shape.images, shape.in_features).astype(block.dtype)
        return carry

    repeat(shape.places // shape.chunk, one, 0)


def _chunk(shape: Shape, chunk: Any) -> tuple[Any, Any]:
    """Places of a chunk, and their rows."""
    size = shape.chunk * shape.images
    return pl.ds(chunk * shape.chunk, shape.chunk), pl.ds(pl.multiple_of(chunk * size, shape.images), size)
