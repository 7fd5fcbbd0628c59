"""Transposition on the chip ("turning") of maps [locations, channels, images], from 128 images on lanes in HBM.

A turned map has rows of its own for each image. 128 images are words of 32 bits, [tiles, 128 * rows, 128]: a tile has
128 locations on lanes, an image has `rows` rows, and a row has one channel in float32 or two in bfloat16. One piece is
copied at a time: 128 locations, some channels and 128 images. Each row of a piece is a matrix [locations, images],
which is transposed.
"""

from typing import Any, NamedTuple

import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jaxtyping import Array

from aa_flax.ops.pallas_tpu.shape import LANES, SUBLANES, Shape, round_up
from aa_flax.ops.pallas_tpu.tiles import repeat

WORD = jnp.uint32


class Workspace(NamedTuple):
    """Scratch memory for one piece."""

    piece: Any  # [128, channels of a piece, 128] in the maps' dtype
    words: Any  # the same as words, [128 * rows of a piece, 128]
    semaphore: Any


def workspace(shape: Shape) -> Workspace:
    """Return the scratch memory that a piece of a shape's maps needs."""
    piece = pltpu.VMEM((LANES, shape.piece, LANES), shape.dtype)
    words = pltpu.VMEM((LANES * shape.piece // shape.pack, LANES), WORD)
    return Workspace(piece, words, pltpu.SemaphoreType.DMA)


def turned_maps(shape: Shape, channels: int, lanes: int) -> Any:
    """Return the scratch memory that 128 turned images need."""
    rows = round_up(channels, SUBLANES * shape.pack) // shape.pack
    return pltpu.VMEM((lanes // LANES, LANES * rows, LANES), WORD)


def turn_in(shape: Shape, maps: Any, turned: Any, work: Workspace, block: Any) -> None:
    """Fill `turned` from the images of a block of `maps`, with zeros at locations and channels that do not exist."""

    def one(tile: int, start: Any, channels: int) -> None:
        there, here = _piece(maps, work, block, tile, start, channels)
        pltpu.sync_copy(there, here)
        words = pltpu.bitcast(work.piece[...], WORD)
        work.words[...] = words.reshape(work.words.shape)
        for source, target in _rows(shape, turned, tile, start, channels):
            turned.at[tile][target, :] = work.words[source, :].T

    if maps.shape[1] % (SUBLANES * shape.pack):
        turned[...] = jnp.zeros(turned.shape, WORD)
    for tile in range(turned.shape[0]):
        if (tile + 1) * LANES > maps.shape[0]:
            work.piece[...] = jnp.zeros(work.piece.shape, shape.dtype)
        _each_piece(shape, maps, lambda start, channels, tile=tile: one(tile, start, channels))


def turn_out(shape: Shape, turned: Any, maps: Any, work: Workspace, block: Any) -> None:
    """Undo `turn_in`: fill the images of a block of `maps` from `turned`."""

    def one(tile: int, start: Any, channels: int) -> None:
        for source, target in _rows(shape, turned, tile, start, channels):
            work.words[source, :] = turned.at[tile][target, :].T
        words = work.words[...].reshape(LANES, shape.piece // shape.pack, LANES)
        work.piece[...] = pltpu.bitcast(words, shape.dtype)
        there, here = _piece(maps, work, block, tile, start, channels)
        pltpu.sync_copy(here, there)

    for tile in range(turned.shape[0]):
        _each_piece(shape, maps, lambda start, channels, tile=tile: one(tile, start, channels))


def read(shape: Shape, turned: Any, image: Any) -> Array:
    """Return one image, [rows of channels, lanes]."""
    here = _image(turned, image)
    words = jnp.concatenate([turned[tile, here, :] for tile in range(turned.shape[0])], 1)
    return pltpu.bitcast(words, shape.dtype)


def write(turned: Any, image: Any, channels: Array) -> None:
    """Undo `read`: write one image."""
    words, here = pltpu.bitcast(channels, WORD), _image(turned, image)
    for tile in range(turned.shape[0]):
        turned[tile, here, :] = words[:, tile * LANES : (tile + 1) * LANES]


def _image(turned: Any, image: Any) -> Any:
    rows = turned.shape[1] // LANES
    return pl.ds(pl.multiple_of(image * rows, SUBLANES), rows)


def _each_piece(shape: Shape, maps: Any, body: Any) -> None:
    whole, rest = divmod(maps.shape[1], shape.piece)

    def one(index: Any, carry: Any) -> Any:
        body(index * shape.piece, shape.piece)
        return carry

    if whole:
        repeat(whole, one, 0)
    if rest:
        body(whole * shape.piece, rest)


def _piece(maps: Any, work: Workspace, block: Any, tile: int, start: Any, channels: int) -> tuple[Any, Any]:
    """Return references to a piece in HBM and on the chip."""
    places = min(LANES, maps.shape[0] - tile * LANES)
    images = pl.ds(pl.multiple_of(block * LANES, LANES), LANES)
    there = maps.at[pl.ds(tile * LANES, places), pl.ds(pl.multiple_of(start, SUBLANES), channels), images]
    return there, work.piece.at[pl.ds(0, places), pl.ds(0, channels)]


def _rows(shape: Shape, turned: Any, tile: int, start: Any, channels: int) -> list[tuple[Any, Any]]:
    """Return where each row of a piece lies among the words of the piece, and among those of the images."""
    first, stride = start // shape.pack, turned.shape[1] // LANES
    return [
        (pl.ds(row, LANES, stride=shape.piece // shape.pack), pl.ds(first + row, LANES, stride=stride))
        for row in range(-(-channels // shape.pack))
    ]
