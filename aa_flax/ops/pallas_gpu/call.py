"""The call of the GPU kernels: its custom gradient, meshes, and the tables' gradients as sums of their parts."""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton
from jaxtyping import Array, Float

from aa_flax.ops.mesh import BATCHED, WHOLE, over_mesh, result_like, varying_alike
from aa_flax.ops.pallas_gpu import kernels
from aa_flax.ops.pallas_gpu.shape import Shape
from aa_flax.ops.tables import by_pair

_NAME = "pallas_gpu"


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def attention(
    shape: Shape,
    qkv: Float[Array, "b places depths"],
    tables: tuple[Array, ...],
) -> Float[Array, "b places value"]:
    """Return relative attention over maps whose queries, keys and values lie side by side."""
    return _attention_forward(shape, qkv, tables)[0]


def _attention_forward(shape: Shape, qkv: Array, tables: tuple[Array, ...]) -> Any:
    run = functools.partial(_forward, shape)
    split = over_mesh(run, qkv.shape[0], (BATCHED, WHOLE), (BATCHED,) * 3, name=_NAME)
    output, *sums = split(qkv, tables)
    return output, (qkv, tables, output, *sums)


def _attention_backward(shape: Shape, residuals: Any, slope: Array) -> Any:
    qkv, tables, output, *sums = residuals
    run = functools.partial(_backward, shape)

    def summed(*arrays: Any) -> Any:
        by_qkv, by_tables = run(*arrays)
        return by_qkv, jax.lax.psum(by_tables, "data")

    specs = (BATCHED,) * 5 + (WHOLE,)
    split = over_mesh(summed, qkv.shape[0], specs, (BATCHED, WHOLE), name=_NAME, alone=run)
    by_qkv, by_tables = split(qkv, output, *sums, slope, tables)
    return by_qkv, tuple(by.astype(table.dtype) for by, table in zip(by_tables, tables, strict=True))


attention.defvjp(_attention_forward, _attention_backward)


def _forward(shape: Shape, qkv: Array, tables: tuple[Array, ...]) -> tuple[Array, Array, Array]:
    b, places, _ = qkv.shape
    output = jax.ShapeDtypeStruct((b, places, shape.num_heads * shape.value_depth), qkv.dtype)
    sums = jax.ShapeDtypeStruct((b, shape.num_heads, places), jnp.float32)
    return _call(
        shape,
        functools.partial(kernels.forward, shape),
        (shape.query_tiles, shape.num_heads, b),
        [_image(qkv), *map(_all, tables)],
        [(output, _image(output)), (sums, _image(sums)), (sums, _image(sums))],
        [qkv, *tables],
    )


def _backward(
    shape: Shape,
    qkv: Array,
    output: Array,
    largest: Array,
    log_sums: Array,
    slope: Array,
    tables: tuple[Array, ...],
) -> tuple[Array, tuple[Array, ...]]:
    b = qkv.shape[0]
    group = shape.group(b)
    groups = shape.num_heads // group
    by_qkv = jax.ShapeDtypeStruct(qkv.shape, qkv.dtype)
    results = [(by_qkv, _image(by_qkv))]
    if shape.positions:
        h, w, dk = shape.height, shape.width, shape.key_depth
        for lengths in ((h, shape.row_tiles, h), (w, shape.column_tiles, w)):
            part = jax.ShapeDtypeStruct((b, groups, *lengths, dk), jnp.float32)
            results.append((part, pl.BlockSpec((None, None, *part.shape[2:]), lambda t, g, i: (i, g, 0, 0, 0, 0))))
    heads = (*qkv.shape[:2], shape.num_heads, shape.value_depth)
    means = jnp.sum(output.reshape(heads).astype(jnp.float32) * slope.reshape(heads).astype(jnp.float32), -1)
    arguments = [qkv, slope, largest, log_sums, means]
    by_qkv, *parts = _call(
        shape,
        functools.partial(kernels.backward, shape, group),
        (shape.query_tiles + shape.key_tiles, groups, b),
        [*map(_image, arguments), *map(_all, tables)],
        results,
        [*arguments, *tables],
        backward=True,
    )
    if not parts:
        return by_qkv, ()
    by_height, by_width = (part.sum((0, 1, 3)) * abs(shape.scale) for part in parts)
    return by_qkv, (_by_offset(by_height), _by_offset(by_width.swapaxes(0, 1)))


def _by_offset(pairs: Float[Array, "query key dk"]) -> Float[Array, "offset dk"]:
    """Return the sums over pairs of coordinates with the same offset: the transpose of `by_pair`."""
    length, _, depth = pairs.shape
    pairs, anywhere = varying_alike((pairs, jnp.zeros((2 * length - 1, depth), pairs.dtype)))
    (summed,) = jax.vjp(by_pair, anywhere)[1](pairs)  # `by_pair` is linear
    return summed


def _call(
    shape: Shape, kernel: Any, grid: Any, specs: list, results: list, arguments: list, *, backward: bool = False
) -> Any:
    flops, exponentials = shape.cost(arguments[0].shape[0], backward=backward)
    moved = sum(
        math.prod(array.shape) * array.dtype.itemsize for array in [*arguments, *(array for array, _ in results)]
    )
    call = pl.pallas_call(
        kernel,
        grid=grid,
        in_specs=specs,
        out_specs=[spec for _, spec in results],
        out_shape=[result_like(arguments[0], result) for result, _ in results],
        compiler_params=triton.CompilerParams(num_warps=shape.warps, num_stages=shape.stages(backward=backward)),
        cost_estimate=pl.CostEstimate(flops=flops, transcendentals=exponentials, bytes_accessed=moved),
        name=f"relative_attention_{'backward' if backward else 'forward'}",
        interpret=shape.interpret,
    )
    with jax.enable_x64(False):  # the numbers in a kernel have 32 bits
        return call(*arguments)


def _image(array: Any) -> pl.BlockSpec:
    return pl.BlockSpec((None, *array.shape[1:]), lambda tile, head, image: (image, 0, 0))


def _all(array: Any) -> pl.BlockSpec:
    return pl.BlockSpec(array.shape, lambda tile, head, image: (0, 0))
