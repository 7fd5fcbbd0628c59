"""The two passes over one image: projections, relative attention and their gradients, maps never outside VMEM.

Grid: blocks of images, images of a block, groups of heads. Nothing of the forward pass is kept for the backward pass
but its inputs. Gradients by parameters are summed over the grid, which runs in order: the same sums in every run.

A block of one image is [1, lanes, c]. A block of several is [places, images, c], as the compiler lays maps out for its
convolutions: it is copied to float32 once, so that an image's rows can be read with a stride.
"""

from typing import Any

import jax.numpy as jnp
from jax.experimental import pallas as pl
from jaxtyping import Array

from aa_flax.ops.pallas_tpu.shape import LANES, Shape
from aa_flax.ops.pallas_tpu.tiles import attend, fold_queries, logits, masked, product, repeat, span, unfold_queries


def forward(
    shape: Shape,
    x: Any,  # [1, lanes, c] or [places, images, c]
    qkv: Any,  # [n, rows, c]
    qkv_bias: Any,  # [n, rows, 1]
    out: Any,  # [n, out, value_rows]
    out_bias: Any,  # [out, 1]
    *refs: Any,
) -> None:
    """Fills y [1, out, lanes]."""
    axes = len(shape.axes)
    tables, (shifts, positions, y) = refs[:axes], refs[axes : axes + 3]
    projected, keys, values, sums, *copied = refs[axes + 3 :]
    number, first = pl.program_id(1), pl.program_id(2) * shape.group
    _project(shape, _image(shape, x, copied, number, first), qkv, qkv_bias, first, projected)
    keys[shape.key_rows :, :] = positions[...]

    @pl.when(first == 0)
    def _() -> None:
        sums[...] = jnp.broadcast_to(out_bias[...], sums.shape)

    def head(h: Any, carry: Any) -> Any:
        _load_head(shape, projected, keys, values, h)
        out_of_head = out[first + h]

        def queries(tile: Any, carry: Any) -> Any:
            here = span(tile, shape.query_tile, shape.query_tiles)
            query = projected[h, : shape.key_rows, here]
            folded = fold_queries(shape, query, [table[...] for table in tables], shifts[:, here])
            _, weighted, _ = attend(shape, folded, keys, values)
            average = weighted / weighted[shape.value_depth : shape.value_depth + 1]
            sums[:, here] += product(shape, out_of_head, average.astype(shape.dtype))
            return carry

        return repeat(shape.query_tiles, queries, carry)

    repeat(shape.group, head, 0, unroll=_unrolled(shape))

    @pl.when(pl.program_id(2) == pl.num_programs(2) - 1)
    def _() -> None:
        y[0] = sums[...].astype(y.dtype)


def backward(
    shape: Shape,
    x: Any,  # [1, lanes, c] or [places, images, c]
    dy: Any,  # [1, out, lanes]
    qkv: Any,  # [n, rows, c]
    qkv_bias: Any,  # [n, rows, 1]
    out: Any,  # [n, out, value_rows]
    *refs: Any,
) -> None:
    """Fills the gradients: dx, laid out as x; of the parameters in float32, in their shapes, summed over the images."""
    axes = len(shape.axes)
    tables, (shifts, positions, dx, d_qkv, d_qkv_bias, d_out, d_out_bias) = refs[:axes], refs[axes : axes + 7]
    d_tables, scratch = refs[axes + 7 : 2 * axes + 7], refs[2 * axes + 7 :]
    projected, d_projected, keys, values, dx_sum, *copied = scratch
    number, first = pl.program_id(1), pl.program_id(2) * shape.group
    key_rows = shape.key_rows

    @pl.when((pl.program_id(0) == 0) & (number == 0) & (first == 0))
    def _() -> None:
        for ref in (d_qkv, d_qkv_bias, d_out, d_out_bias, *d_tables):
            ref[...] = jnp.zeros(ref.shape, ref.dtype)

    image = _image(shape, x, copied, number, first)
    _project(shape, image, qkv, qkv_bias, first, projected)
    keys[key_rows:, :] = positions[...]

    @pl.when(first == 0)
    def _() -> None:
        d_out_bias[...] += masked(shape, dy[0].astype(jnp.float32), 1).sum(1, keepdims=True)

    def head(h: Any, carry: Any) -> Any:
        _load_head(shape, projected, keys, values, h)
        out_of_head = out[first + h]
        d_projected[h, key_rows:, :] = jnp.zeros((shape.rows - key_rows, shape.lanes), jnp.float32)

        def queries(tile: Any, carry: Any) -> Any:
            here = span(tile, shape.query_tile, shape.query_tiles)
            query, tile_shifts = projected[h, :key_rows, here], shifts[:, here]
            table_values = [table[...] for table in tables]
            folded = fold_queries(shape, query, table_values, tile_shifts)
            largest, weighted, numerators = attend(shape, folded, keys, values)
            inverse = 1 / weighted[shape.value_depth : shape.value_depth + 1]
            average = weighted * inverse
            # in float32, because Mosaic has no mask for a few rows of bfloat16
            d_y = masked(shape, dy[0, :, here].astype(jnp.float32), 1, tile * shape.query_tile).astype(shape.dtype)
            d_average = product(shape, out_of_head, d_y, (0, 0))
            d_out[first + h] += product(shape, d_y, average.astype(shape.dtype), (1, 1))
            # sum over keys of weight * d_weight, which the softmax's derivative takes off
            mean = (d_average * average).sum(0, keepdims=True)
            d_average = d_average.astype(shape.dtype)

            def one(key_tile: Any, d_folded: Any) -> Any:
                there = span(key_tile, shape.key_tile, shape.key_tiles)
                exponentials = numerators
                if exponentials is None:
                    exponentials = jnp.exp(logits(shape, keys[:, there], folded) - largest)
                weights = exponentials * inverse
                d_weights = product(shape, values[:, there], d_average, (0, 0))
                d_logits = (weights * (d_weights - mean) * shape.scale).astype(shape.dtype)
                d_projected[h, 2 * key_rows :, there] += product(shape, d_average, weights.astype(shape.dtype), (1, 1))
                d_projected[h, key_rows : 2 * key_rows, there] += product(shape, folded[:key_rows], d_logits, (1, 1))
                return d_folded + product(shape, keys[:, there], d_logits)

            none = jnp.zeros((shape.folded_rows, shape.query_tile), jnp.float32)
            d_folded = repeat(shape.key_tiles, one, none)
            d_query, by_tables = unfold_queries(shape, d_folded, query, table_values, tile_shifts)
            d_projected[h, :key_rows, here] = d_query
            for ref, gradient in zip(d_tables, by_tables, strict=True):
                ref[...] += gradient
            return carry

        return repeat(shape.query_tiles, queries, carry)

    repeat(shape.group, head, 0, unroll=_unrolled(shape))
    group = pl.ds(first, shape.group)
    d_qkv_bias[group] += d_projected[...].sum(2, keepdims=True)
    gradient = d_projected[...].reshape(shape.group * shape.rows, shape.lanes).astype(shape.dtype)
    d_qkv[group] += product(shape, gradient, image).reshape(shape.group, shape.rows, shape.in_features)
    kernel = qkv[group].reshape(shape.group * shape.rows, shape.in_features)
    part = product(shape, gradient, kernel, (0, 0))

    last_group = pl.program_id(2) == pl.num_programs(2) - 1

    @pl.when(first == 0)
    def _() -> None:
        _write(shape, dx_sum, number, part)

    @pl.when(first != 0)
    def _() -> None:
        _write(shape, dx_sum, number, _read(shape, dx_sum, number) + part)

    @pl.when(last_group & (number == shape.images - 1))
    def _() -> None:
        _copy_out(shape, dx_sum, dx)


def _image(shape: Shape, x: Any, copied: Any, number: Any, first: Any) -> Array:
    """[lanes, c] of image `number` of the block, with zeros at places outside the map."""
    if shape.images == 1:
        return masked(shape, x[0], 0)
    (rows,) = copied

    @pl.when((number == 0) & (first == 0))
    def _() -> None:
        _copy_in(shape, x, rows)

    return _read(shape, rows, number).astype(shape.dtype)


def _read(shape: Shape, rows: Any, number: Any) -> Array:
    """[lanes, c] of an image from the rows of its block, tile of channels by tile."""
    if shape.images == 1:
        return rows[...]
    here = pl.ds(number, shape.lanes, stride=shape.images)
    return jnp.concatenate([rows.at[tile][here, :] for tile in range(rows.shape[0])], 1)[:, : shape.in_features]


def _write(shape: Shape, rows: Any, number: Any, image: Array) -> None:
    """Undoes `_read`."""
    if shape.images == 1:
        rows[...] = image
        return
    here = pl.ds(number, shape.lanes, stride=shape.images)
    for tile in range(rows.shape[0]):
        part = image[:, tile * LANES : (tile + 1) * LANES]
        if missing := LANES - part.shape[1]:
            part = jnp.concatenate([part, jnp.zeros((shape.lanes, missing), part.dtype)], 1)
        rows.at[tile][here, :] = part


def _copy_in(shape: Shape, block: Any, rows: Any) -> None:
    """Rows [tiles, lanes * images, 128] in float32 from a block [places, images, c]."""

    def one(chunk: Any, carry: Any) -> Any:
        places, here = _chunk(shape, chunk)
        values = block[places].astype(jnp.float32).reshape(shape.chunk * shape.images, shape.in_features)
        for tile in range(rows.shape[0]):
            part = values[:, tile * LANES : (tile + 1) * LANES]
            rows.at[tile][here, : part.shape[1]] = part
        return carry

    repeat(shape.places // shape.chunk, one, 0)
    if missing := (shape.lanes - shape.places) * shape.images:
        rows[:, shape.places * shape.images :, :] = jnp.zeros((rows.shape[0], missing, LANES), jnp.float32)


def _copy_out(shape: Shape, rows: Any, block: Any) -> None:
    """Undoes `_copy_in`."""
    if shape.images == 1:
        block[0] = rows[...].astype(block.dtype)
        return

    def one(chunk: Any, carry: Any) -> Any:
        places, here = _chunk(shape, chunk)
        values = jnp.concatenate([rows.at[tile][here, :] for tile in range(rows.shape[0])], 1)[:, : shape.in_features]
        block[places] = values.reshape(shape.chunk, shape.images, shape.in_features).astype(block.dtype)
        return carry

    repeat(shape.places // shape.chunk, one, 0)


def _chunk(shape: Shape, chunk: Any) -> tuple[Any, Any]:
    """Places of a chunk, and their rows."""
    size = shape.chunk * shape.images
    return pl.ds(chunk * shape.chunk, shape.chunk), pl.ds(pl.multiple_of(chunk * size, shape.images), size)


def _project(shape: Shape, image: Any, qkv: Any, bias: Any, first: Any, projected: Any) -> None:
    """Rows [group, rows, lanes] of the heads from `first` on."""
    heads = pl.ds(first, shape.group)
    kernel = qkv[heads].reshape(shape.group * shape.rows, shape.in_features)
    rows = product(shape, kernel, image, (1, 1)) + bias[heads].reshape(shape.group * shape.rows, 1)
    projected[...] = rows.reshape(shape.group, shape.rows, shape.lanes)


def _load_head(shape: Shape, projected: Any, keys: Any, values: Any, head: Any) -> None:
    keys[: shape.key_rows, :] = projected[head, shape.key_rows : 2 * shape.key_rows].astype(shape.dtype)
    values[...] = projected[head, 2 * shape.key_rows :].astype(shape.dtype)


def _unrolled(shape: Shape) -> bool:
    """Heads of small maps side by side hide each other's latency; on large ones a head is work enough."""
    return shape.lanes <= 256
