"""The kernels of the two passes over one image: projections, relative attention and their gradients, all in VMEM.

Queries are scaled before the product with the keys, in float32: a scale multiplied to the logits afterwards could be
fused with the subtraction of the largest, which rounds differently (`aa_flax.ops.scaling`).

Grid: blocks of images, images of a block, groups of heads. Only the inputs of the forward pass are kept for the
backward pass. Gradients of parameters are summed over the grid, which runs in order, so every run gives the same sums.
"""

from typing import Any, NamedTuple

import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jaxtyping import Array

from aa_flax.ops.pallas_tpu import maps as blocks
from aa_flax.ops.pallas_tpu.shape import Shape
from aa_flax.ops.pallas_tpu.tiles import attend, fold_queries, logits, product, repeat, span, unfold_queries


class Weights(NamedTuple):
    """Parameters as the kernels take them, or their gradients."""

    qkv: Any  # [n, rows, c]
    qkv_bias: Any  # [n, rows, 1]
    out: Any  # [n, out_rows, value_rows]
    out_bias: Any  # [out_rows, 1]
    tables: tuple[Any, ...]  # of the width, of the height; [table_rows, key_rows]; empty without positions
    norm: tuple[Any, ...]  # factors and summands of the channels, [1, c] or [c, 1]; empty without normalisation


class Constants(NamedTuple):
    """Arrays that depend on the sizes alone."""

    shifts: Any
    positions: Any
    interpolation: Any  # None if the result keeps the map's size


def scratch(shape: Shape, *, backward: bool) -> dict[str, Any]:
    """Return the memory on the chip that a pass needs besides its blocks."""
    projected = pltpu.VMEM((shape.group, shape.rows, shape.lanes), jnp.float32)
    shared = dict(
        projected=projected,
        keys=pltpu.VMEM((shape.folded_rows, shape.lanes), shape.dtype),
        values=pltpu.VMEM((shape.value_rows, shape.lanes), shape.dtype),
        sums=pltpu.VMEM((shape.out_rows, shape.lanes), jnp.float32),
        **blocks.scratch(shape, backward=backward),
    )
    if not backward:
        return shared
    image = (shape.in_features, shape.lanes) if shape.turned else (shape.lanes, shape.in_features)
    return shared | dict(d_projected=projected, dx_sum=pltpu.VMEM(image, jnp.float32))


def forward(
    shape: Shape,
    x: Any,
    weights: Weights,
    constants: Constants,
    y: Any,
    *,
    projected: Any,
    keys: Any,
    values: Any,
    sums: Any,
    maps: Any,
    results: Any,
    work: Any,
) -> None:
    """Fill y; `maps.py` states the layouts of x and y."""
    place = blocks.Place.here()
    first = place.group * shape.group
    blocks.load(shape, place, x, maps, work)
    _project(shape, _activated(shape, blocks.read(shape, place, x, maps), weights), weights, first, projected)
    keys[shape.key_rows :, :] = constants.positions[...]

    @pl.when(first == 0)
    def _() -> None:
        sums[...] = jnp.broadcast_to(weights.out_bias[...], sums.shape)

    def head(h: Any, carry: Any) -> Any:
        _load_head(shape, projected, keys, values, h)
        out_of_head = weights.out[first + h]

        def queries(tile: Any, carry: Any) -> Any:
            here = span(tile, shape.query_tile, shape.query_tiles)
            query = projected[h, : shape.key_rows, here] * shape.scale
            tables = [table[...] for table in weights.tables]
            folded = fold_queries(shape, query, tables, constants.shifts[:, here])
            _, weighted, _ = attend(shape, folded, keys, values)
            average = weighted / weighted[shape.value_depth : shape.value_depth + 1]
            sums[:, here] += product(shape, out_of_head, average.astype(shape.dtype))
            return carry

        return repeat(shape.query_tiles, queries, carry)

    repeat(shape.group, head, 0, unroll=_unrolled(shape))

    @pl.when(place.last_group)
    def _() -> None:
        result = sums[...]
        if shape.upsampled:
            result = product(shape, result.astype(shape.dtype), constants.interpolation[...])
        blocks.write_result(shape, place, result, y, results, work)


def backward(
    shape: Shape,
    x: Any,
    dy: Any,
    weights: Weights,
    constants: Constants,
    dx: Any,
    gradients: Weights,
    *,
    projected: Any,
    d_projected: Any,
    keys: Any,
    values: Any,
    sums: Any,
    dx_sum: Any,
    maps: Any,
    results: Any,
    work: Any,
) -> None:
    """Fill the gradients: dx, laid out as x, and those of the parameters, in float32 and summed over the images."""
    place = blocks.Place.here()
    first, key_rows = place.group * shape.group, shape.key_rows

    @pl.when((place.block == 0) & (place.image == 0) & (first == 0))
    def _() -> None:
        for ref in (*gradients[:4], *gradients.tables, *gradients.norm):
            ref[...] = jnp.zeros(ref.shape, ref.dtype)

    blocks.load(shape, place, x, maps, work)
    raw = blocks.read(shape, place, x, maps)
    image = _activated(shape, raw, weights)
    _project(shape, image, weights, first, projected)
    keys[key_rows:, :] = constants.positions[...]

    @pl.when(first == 0)
    def _() -> None:
        d_result = blocks.read_result(shape, place, dy, results, work)
        gradients.out_bias[...] += d_result.sum(1, keepdims=True)
        if shape.upsampled:
            d_result = product(shape, d_result.astype(shape.dtype), constants.interpolation[...], (1, 1))
        sums[...] = d_result

    def head(h: Any, carry: Any) -> Any:
        _load_head(shape, projected, keys, values, h)
        out_of_head = weights.out[first + h]
        d_projected[h, key_rows:, :] = jnp.zeros((shape.rows - key_rows, shape.lanes), jnp.float32)

        def queries(tile: Any, carry: Any) -> Any:
            here = span(tile, shape.query_tile, shape.query_tiles)
            query, tile_shifts = projected[h, :key_rows, here] * shape.scale, constants.shifts[:, here]
            table_values = [table[...] for table in weights.tables]
            folded = fold_queries(shape, query, table_values, tile_shifts)
            largest, weighted, numerators = attend(shape, folded, keys, values)
            inverse = 1 / weighted[shape.value_depth : shape.value_depth + 1]
            average = weighted * inverse
            d_y = sums[:, here].astype(shape.dtype)
            d_average = product(shape, out_of_head, d_y, (0, 0))
            gradients.out[first + h] += product(shape, d_y, average.astype(shape.dtype), (1, 1))
            # sum over keys of weight * d_weight, which the softmax's derivative subtracts
            mean = (d_average * average).sum(0, keepdims=True)
            d_average = d_average.astype(shape.dtype)

            def one(key_tile: Any, d_folded: Any) -> Any:
                there = span(key_tile, shape.key_tile, shape.key_tiles)
                exponentials = numerators
                if exponentials is None:
                    exponentials = jnp.exp(logits(shape, keys[:, there], folded) - largest)
                weights_here = exponentials * inverse
                d_weights = product(shape, values[:, there], d_average, (0, 0))
                d_logits = (weights_here * (d_weights - mean)).astype(shape.dtype)
                by_value = product(shape, d_average, weights_here.astype(shape.dtype), (1, 1))
                d_projected[h, 2 * key_rows :, there] += by_value
                d_projected[h, key_rows : 2 * key_rows, there] += product(shape, folded[:key_rows], d_logits, (1, 1))
                return d_folded + product(shape, keys[:, there], d_logits)

            none = jnp.zeros((shape.folded_rows, shape.query_tile), jnp.float32)
            d_folded = repeat(shape.key_tiles, one, none)
            d_query, by_tables = unfold_queries(shape, d_folded, query, table_values, tile_shifts)
            d_projected[h, :key_rows, here] = d_query * shape.scale
            for ref, gradient in zip(gradients.tables, by_tables, strict=True):
                ref[...] += gradient
            return carry

        return repeat(shape.query_tiles, queries, carry)

    repeat(shape.group, head, 0, unroll=_unrolled(shape))
    group = pl.ds(first, shape.group)
    gradients.qkv_bias[group] += d_projected[...].sum(2, keepdims=True)
    gradient = d_projected[...].reshape(shape.group * shape.rows, shape.lanes).astype(shape.dtype)
    by_kernel = product(shape, gradient, image, (1, 1 if shape.turned else 0))
    gradients.qkv[group] += by_kernel.reshape(shape.group, shape.rows, shape.in_features)
    kernel = weights.qkv[group].reshape(shape.group * shape.rows, shape.in_features)
    part = product(shape, kernel, gradient, (0, 0)) if shape.turned else product(shape, gradient, kernel, (0, 0))

    @pl.when(first == 0)
    def _() -> None:
        dx_sum[...] = part

    @pl.when(first != 0)
    def _() -> None:
        dx_sum[...] += part

    @pl.when(place.last_group)
    def _() -> None:
        blocks.write(shape, place, _by_raw(shape, raw, dx_sum[...], weights, gradients), dx, maps, work)


def _activated(shape: Shape, raw: Array, weights: Weights) -> Array:
    """Return the input of the projection: relu(raw * factor + summand) if the kernel normalises, else `raw`."""
    if not shape.normalized:
        return raw
    factor, summand = weights.norm
    return jnp.maximum(raw.astype(jnp.float32) * factor[...] + summand[...], 0).astype(shape.dtype)


def _by_raw(shape: Shape, raw: Array, gradient: Array, weights: Weights, gradients: Weights) -> Array:
    """Return an image's gradient from that of the projection's input, and add to the normalisation's gradients."""
    if not shape.normalized:
        return gradient
    factor, summand = weights.norm
    wide, places = raw.astype(jnp.float32), 1 if shape.turned else 0
    gradient = jnp.where(wide * factor[...] + summand[...] > 0, gradient, 0)
    d_factor, d_summand = gradients.norm
    d_factor[...] += (gradient * wide).sum(places, keepdims=True)
    d_summand[...] += gradient.sum(places, keepdims=True)
    return gradient * factor[...]


def _project(shape: Shape, image: Array, weights: Weights, first: Any, projected: Any) -> None:
    """Fill `projected` [group, rows, lanes] with the rows of the heads from `first` on."""
    heads = pl.ds(first, shape.group)
    kernel = weights.qkv[heads].reshape(shape.group * shape.rows, shape.in_features)
    bias = weights.qkv_bias[heads].reshape(shape.group * shape.rows, 1)
    rows = product(shape, kernel, image, (1, 0 if shape.turned else 1)) + bias
    projected[...] = rows.reshape(shape.group, shape.rows, shape.lanes)


def _load_head(shape: Shape, projected: Any, keys: Any, values: Any, head: Any) -> None:
    keys[: shape.key_rows, :] = projected[head, shape.key_rows : 2 * shape.key_rows].astype(shape.dtype)
    values[...] = projected[head, 2 * shape.key_rows :].astype(shape.dtype)


def _unrolled(shape: Shape) -> bool:
    """Return whether to unroll the loop over heads: heads of small maps then hide each other's latency.

    On large maps one head is enough work.
    """
    return shape.lanes <= 256
