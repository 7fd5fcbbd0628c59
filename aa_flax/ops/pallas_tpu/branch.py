"""The attention branch as one TPU kernel per pass: projections, relative attention, output projection."""

import dataclasses
import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.layout import Layout, with_layout_constraint
from jax.experimental.pallas import tpu as pltpu
from jax.export import is_symbolic_dim
from jax.sharding import PartitionSpec
from jaxtyping import Array, Float

from aa_flax.ops.channels import add_to_last_channels
from aa_flax.ops.mesh import BATCHED, WHOLE, data_mesh, over_mesh, result_like, varying_alike
from aa_flax.ops.pallas_tpu import kernels, maps
from aa_flax.ops.pallas_tpu.kernels import Constants, Weights
from aa_flax.ops.pallas_tpu.shape import LANES, SUBLANES, Shape, fills_lanes
from aa_flax.ops.platform import kernels_allowed, target_device_kind, target_platform

_NAME = "pallas_tpu"


def attention_branch(
    x: Float[Array, "b h w c"],
    qkv_kernel: Float[Array, "c depths"],
    qkv_bias: Float[Array, " depths"] | None,
    out_kernel: Float[Array, "value out"],
    out_bias: Float[Array, " out"] | None,
    rel_height: Float[Array, "2*h-1 dk"] | None,
    rel_width: Float[Array, "2*w-1 dk"] | None,
    *,
    num_heads: int,
    scale: float,
    norm: tuple[Float[Array, " c"], Float[Array, " c"]] | None = None,
    upsampled: tuple[int, int] | None = None,
    added_to: Float[Array, "b ho wo all"] | None = None,
    interpret: bool = False,
) -> Float[Array, "b ho wo _"]:
    """Return multi-head relative attention over a map, with its projections (Bello et al., 2019, equations 2 to 4).

    Queries, keys, values, logits and weights never reach HBM: a pass reads the map and writes the result. The backward
    pass computes them again. Under an ambient mesh with an axis "data" each device serves its part of the batch.

    Args:
        x: [b, h, w, c] in bfloat16 or float32, which is also the dtype of the products; sums are in float32.
        qkv_kernel, qkv_bias: of the projection to queries, keys and values, each head-major.
        out_kernel, out_bias: of the projection of the concatenated heads.
        rel_height, rel_width: [2h-1, dk], [2w-1, dk], shared by the heads; both None for no position.
        num_heads: n, a divisor of key and value depth.
        scale: factor of the logits.
        norm: a factor and a summand for each channel; attention is then over relu(x * factor + summand).
        upsampled: size to which the result is interpolated, as `resize_bilinear` does; None leaves it as it is.
        added_to: a map to whose last channels the result is added, returned whole; None returns the result alone.
        interpret: run step by step on any device, as the tests do; slow.

    Raises:
        TypeError: other dtypes.
        ValueError: a map that no TPU's VMEM holds, or a batch that the mesh does not divide.
        RuntimeError: traced for another device than a TPU.
    """
    if not interpret and (platform := target_platform()) != "tpu":
        raise RuntimeError(
            f"implementation 'pallas_tpu' runs on TPUs, and this program is traced for a {platform}; use 'folded', or "
            "'pallas_tpu_interpret' to try it slowly"
        )
    b, h, w, c = x.shape
    value_depth, out_features = out_kernel.shape
    shape = Shape(
        height=h,
        width=w,
        num_heads=num_heads,
        key_depth=(qkv_kernel.shape[1] - value_depth) // (2 * num_heads),
        value_depth=value_depth // num_heads,
        in_features=c,
        out_features=out_features,
        scale=scale,
        positions=rel_height is not None,
        dtype=jnp.dtype(x.dtype),
        upsampled=None if upsampled == (h, w) else upsampled,
        all_features=0 if added_to is None else added_to.shape[-1],
        normalized=norm is not None,
    )
    shape.check(target_device_kind())
    shape = _with_images(shape, b)
    tables = [] if rel_height is None or rel_width is None else [rel_width, rel_height]
    packed = _pack(shape, qkv_kernel, qkv_bias, out_kernel, out_bias, tables, norm)
    return _branch(shape, interpret, *varying_alike((_laid_out(shape, x), packed, added_to)))


def as_the_kernel_reads(x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
    """Return `x`, on a TPU in the memory layout of blocks of eight images if its channels fill lanes; see `maps.py`.

    It is for maps that both attention and a convolution read. The compiler chooses a layout for the convolution alone,
    and would copy the map and its gradient into another layout for the kernel.
    """
    no_kernel = not kernels_allowed() or is_symbolic_dim(x.shape[0])
    if target_platform() != "tpu" or no_kernel or not fills_lanes(x.shape[-1]):
        return x
    return with_layout_constraint(x, Layout((1, 2, 0, 3)))


def _with_images(shape: Shape, batch: int) -> Shape:
    """Return `shape` with blocks of several images, if each device's part of the batch and its VMEM allow it."""
    mesh = data_mesh()
    devices = 1 if mesh is None else mesh.shape["data"]
    for images in (LANES, SUBLANES):
        together = dataclasses.replace(shape, images=images)
        allowed = shape.can_be_turned or images != LANES
        if allowed and batch % (devices * images) == 0 and together.fits(target_device_kind()):
            return together
    return shape


def _laid_out(shape: Shape, x: Array) -> Array:
    """Return `x` as the kernels take maps, see `maps.py`."""
    b, h, w, c = x.shape
    if shape.turned:
        return x.transpose(1, 2, 3, 0).reshape(h * w, c, b)
    if shape.images == 1:
        return x.reshape(b, h * w, c)
    return x.transpose(1, 2, 0, 3).reshape(h * w, b, c)


def _pack(
    shape: Shape,
    qkv_kernel: Array,
    qkv_bias: Array | None,
    out_kernel: Array,
    out_bias: Array | None,
    tables: list[Array],
    norm: tuple[Array, Array] | None,
) -> Weights:
    """Return the parameters as the kernels take them: by head, rows padded, transposed."""
    n, dk, dv = shape.num_heads, shape.key_depth, shape.value_depth

    def by_head(matrix: Array, depth: int, rows: int) -> Array:
        return jnp.pad(matrix.reshape(-1, n, depth).transpose(1, 2, 0), ((0, 0), (0, rows - depth), (0, 0)))

    def joined(matrix: Array) -> Array:
        parts = jnp.split(matrix, [n * dk, 2 * n * dk], axis=1)
        sizes = ((dk, shape.key_rows), (dk, shape.key_rows), (dv, shape.value_rows))
        return jnp.concatenate([by_head(part, *size) for part, size in zip(parts, sizes, strict=True)], 1)

    bias = jnp.zeros(qkv_kernel.shape[1:]) if qkv_bias is None else qkv_bias
    ones = 2 * shape.key_rows + dv
    bias = joined(bias.astype(jnp.float32)[None]).at[:, ones].set(1.0)
    out_bias = jnp.zeros(shape.out_features) if out_bias is None else out_bias
    missing = shape.out_rows - shape.out_features
    out = by_head(out_kernel.T, dv, shape.value_rows).swapaxes(1, 2).astype(shape.dtype)
    padded = [
        jnp.pad(table, ((0, shape.table_rows(length) - len(table)), (0, shape.key_rows - dk)))
        for table, length in zip(tables, shape.axes, strict=True)
    ]
    channels = (-1, 1) if shape.turned else (1, -1)
    return Weights(
        qkv=joined(qkv_kernel).astype(shape.dtype),
        qkv_bias=bias,
        out=jnp.pad(out, ((0, 0), (0, missing), (0, 0))),
        out_bias=jnp.pad(out_bias.astype(jnp.float32), (0, missing))[:, None],
        tables=tuple(table.astype(shape.dtype) for table in padded),
        norm=tuple(each.astype(jnp.float32).reshape(channels) for each in norm or ()),
    )


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _branch(shape: Shape, interpret: bool, x: Array, weights: Weights, added_to: Array | None) -> Array:
    run = functools.partial(_forward, shape, interpret)
    split = over_mesh(run, _batch(shape, x), (_map_axes(shape), WHOLE), _result_axes(shape), name=_NAME)
    y = split(x, weights)
    y = y.transpose(2, 0, 1) if shape.turned else y.swapaxes(1, 2)
    y = y.reshape(-1, *shape.size, shape.out_features)
    return y if added_to is None else add_to_last_channels(added_to, y)


def _branch_forward(shape: Shape, interpret: bool, x: Array, weights: Weights, added_to: Array | None) -> Any:
    return _branch(shape, interpret, x, weights, added_to), (x, weights)


def _branch_backward(shape: Shape, interpret: bool, residuals: Any, dy: Array) -> Any:
    x, weights = residuals
    given = dy if shape.takes_last_tile else dy[..., -shape.out_features :]
    # Without the barrier, XLA keeps the copy of x in the kernel's layout from the forward pass until here, beside x.
    x, given = jax.lax.optimization_barrier((x, given))
    run = functools.partial(_backward, shape, interpret)

    def summed(x: Array, dy: Array, weights: Weights) -> tuple[Array, Weights]:
        dx, gradients = run(x, dy, weights)
        return dx, jax.lax.psum(gradients, "data")

    axes = _map_axes(shape)
    specs = (axes, axes if shape.takes_last_tile else _result_axes(shape), WHOLE)
    split = over_mesh(summed, _batch(shape, x), specs, (axes, WHOLE), name=_NAME, alone=run)
    dx, gradients = split(x, _result_laid_out(shape, given), weights)
    by_weights = jax.tree.map(lambda gradient, weight: gradient.astype(weight.dtype), gradients, weights)
    return dx, by_weights, dy if shape.all_features else None


def _result_laid_out(shape: Shape, dy: Array) -> Array:
    """Return the gradient of a result, or of the whole map that it is added to, as the kernels take it."""
    dy = dy.reshape(dy.shape[0], shape.out_places, -1)
    if shape.takes_last_tile:
        return dy.swapaxes(0, 1)
    return dy.transpose(1, 2, 0) if shape.turned else dy.swapaxes(1, 2)


_branch.defvjp(_branch_forward, _branch_backward)


def _batch(shape: Shape, x: Array) -> int:
    return math.prod(x.shape) // (shape.places * shape.in_features)


def _map_axes(shape: Shape) -> PartitionSpec:
    if shape.turned:
        return PartitionSpec(None, None, "data")
    return BATCHED if shape.images == 1 else PartitionSpec(None, "data")


def _result_axes(shape: Shape) -> PartitionSpec:
    return PartitionSpec(None, None, "data") if shape.turned else BATCHED


def _forward(shape: Shape, interpret: bool, x: Array, weights: Weights) -> Array:
    batch = _batch(shape, x)
    sizes = (shape.out_places, shape.out_features, batch)
    y = jax.ShapeDtypeStruct(sizes if shape.turned else sizes[::-1], x.dtype)
    return _call(shape, kernels.forward, (x, weights, _constants(shape)), y, batch, interpret)


def _backward(shape: Shape, interpret: bool, x: Array, dy: Array, weights: Weights) -> tuple[Array, Weights]:
    gradients = jax.tree.map(lambda weight: jax.ShapeDtypeStruct(weight.shape, jnp.float32), weights)
    results = (jax.ShapeDtypeStruct(x.shape, x.dtype), gradients)
    arguments = (x, dy, weights, _constants(shape))
    return _call(shape, kernels.backward, arguments, results, _batch(shape, x), interpret)


def _call(shape: Shape, kernel: Any, arguments: tuple, results: Any, batch: int, interpret: bool) -> Any:
    """Run one pass over a batch: a program for each image and group of heads, in order."""
    backward = kernel is kernels.backward
    flops, exponentials = shape.cost(batch, backward=backward)
    moved = sum(math.prod(array.shape) * array.dtype.itemsize for array in jax.tree.leaves((arguments, results)))
    result_spec = maps.result_spec(shape, backward=backward)
    maps_and_results = (maps.map_spec(shape), result_spec)[: 1 + backward]
    specs = (*maps_and_results, *jax.tree.map(_whole, arguments[len(maps_and_results) :]))
    results = jax.tree.map(functools.partial(result_like, arguments[0]), results)
    call = pl.pallas_call(
        functools.partial(kernel, shape),
        grid=(batch // shape.images, shape.images, shape.num_heads // shape.group),
        in_specs=specs,
        out_specs=(maps.map_spec(shape), jax.tree.map(_whole, results[1])) if backward else result_spec,
        out_shape=results,
        scratch_shapes=kernels.scratch(shape, backward=backward),
        compiler_params=pltpu.CompilerParams(
            dimension_semantics=("arbitrary",) * 3, vmem_limit_bytes=shape.vmem_limit(backward=backward)
        ),
        cost_estimate=pl.CostEstimate(flops=flops, transcendentals=exponentials, bytes_accessed=moved),
        name="relative_attention_" + kernel.__name__,
        interpret=interpret,
    )
    with jax.enable_x64(False):  # the numbers in a kernel have 32 bits
        return call(*arguments)


def _constants(shape: Shape) -> Constants:
    interpolation = jnp.asarray(shape.interpolation, shape.dtype) if shape.upsampled else None
    return Constants(jnp.asarray(shape.shifts), jnp.asarray(shape.key_positions, shape.dtype), interpolation)


def _whole(array: Any) -> pl.BlockSpec:
    zeros = (0,) * len(array.shape)
    return pl.BlockSpec(array.shape, lambda block, image, group: zeros)
