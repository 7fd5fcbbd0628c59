"""The attention branch as one TPU kernel per pass: projections, relative attention, output projection."""

import dataclasses
import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jax.sharding import PartitionSpec
from jaxtyping import Array, Float

from aa_flax.ops.mesh import BATCHED, WHOLE, data_mesh, over_mesh
from aa_flax.ops.pallas_tpu import kernels
from aa_flax.ops.pallas_tpu.shape import LANES, SUBLANES, Shape, round_up
from aa_flax.ops.platform import target_device_kind, target_platform

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
    interpret: bool = False,
) -> Float[Array, "b h w out"]:
    """Multi-head relative attention over a map, with its projections in and out (Bello et al., 2019, equations 2 to 4).

    Neither queries, keys and values nor logits and weights reach HBM: a pass reads the map and writes the result. The
    gradient recomputes both. Under an ambient mesh with an axis "data" each device serves its part of the batch.

    Args:
        x: [b, h, w, c] in bfloat16 or float32, which is also the dtype of the products; sums are in float32.
        qkv_kernel, qkv_bias: of the projection to queries, keys and values, each head-major.
        out_kernel, out_bias: of the projection of the concatenated heads.
        rel_height, rel_width: [2h-1, dk], [2w-1, dk], shared by the heads; both None for no position.
        num_heads: n, a divisor of key and value depth.
        scale: factor of the logits.
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
    )
    shape.check(target_device_kind())
    tables = [] if rel_height is None or rel_width is None else [rel_width, rel_height]
    packed = _pack(shape, qkv_kernel, qkv_bias, out_kernel, out_bias, tables)
    shape = _with_images(shape, b)
    y = _branch(shape, interpret, _laid_out(shape, x), packed)
    return y.swapaxes(1, 2).reshape(b, h, w, out_features)


def _with_images(shape: Shape, batch: int) -> Shape:
    """With blocks of several images where each device's part of the batch and its VMEM allow."""
    together = dataclasses.replace(shape, images=SUBLANES)
    mesh = data_mesh()
    unit = SUBLANES if mesh is None else SUBLANES * mesh.shape["data"]
    return together if batch % unit == 0 and together.fits(target_device_kind()) else shape


def _laid_out(shape: Shape, x: Array) -> Array:
    """[b, h*w, c], or [h*w, b, c] for blocks of several images.

    The second is how the compiler lays maps out for convolutions. Where it puts the batch last instead, as it does for
    Wide-ResNets, an identity 1×1 convolution turns them, into which it fuses the normalisation and activation before.
    """
    b, h, w, c = x.shape
    if shape.images == 1:
        return x.reshape(b, h * w, c)
    identity = jnp.eye(c, dtype=x.dtype)[None, None]
    numbers = ("NHWC", "HWIO", "NHWC")
    turned = jax.lax.conv_general_dilated(
        x, identity, (1, 1), "VALID", dimension_numbers=numbers, precision=shape.precision
    )
    return turned.transpose(1, 2, 0, 3).reshape(h * w, b, c)


def _pack(
    shape: Shape, qkv_kernel: Array, qkv_bias: Array | None, out_kernel: Array, out_bias: Array | None, tables: list
) -> tuple[Array, ...]:
    """Parameters as the kernels take them: by head, rows padded, transposed."""
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
    padded = [
        jnp.pad(table, ((0, shape.table_rows(length) - len(table)), (0, shape.key_rows - dk)))
        for table, length in zip(tables, shape.axes, strict=True)
    ]
    return (
        joined(qkv_kernel).astype(shape.dtype),
        bias,
        by_head(out_kernel.T, dv, shape.value_rows).swapaxes(1, 2).astype(shape.dtype),
        out_bias.astype(jnp.float32)[:, None],
        *(table.astype(shape.dtype) for table in padded),
    )


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _branch(shape: Shape, interpret: bool, x: Array, params: tuple[Array, ...]) -> Array:
    run = functools.partial(_forward, shape, interpret)
    maps = _batched_maps(shape)
    return over_mesh(run, _batch(shape, x), (maps, WHOLE), BATCHED, name=_NAME)(x, params)


def _branch_forward(shape: Shape, interpret: bool, x: Array, params: tuple[Array, ...]) -> Any:
    return _branch(shape, interpret, x, params), (x, params)


def _branch_backward(shape: Shape, interpret: bool, residuals: Any, dy: Array) -> Any:
    x, params = residuals
    # Without the barrier XLA keeps the forward pass's relaid copy of x until here, beside x itself.
    x, dy = jax.lax.optimization_barrier((x, dy))

    def run(x: Array, dy: Array, params: tuple[Array, ...]) -> tuple[Array, tuple[Array, ...]]:
        dx, *gradients = _backward(shape, interpret, x, dy, params)
        return dx, tuple(gradients)

    def summed(x: Array, dy: Array, params: tuple[Array, ...]) -> tuple[Array, tuple[Array, ...]]:
        dx, gradients = run(x, dy, params)
        return dx, jax.lax.psum(gradients, "data")

    maps = _batched_maps(shape)
    specs = (maps, BATCHED, WHOLE)
    split = over_mesh(summed, _batch(shape, x), specs, (maps, WHOLE), name=_NAME, alone=run)
    dx, gradients = split(x, dy, params)
    return dx, tuple(g.astype(p.dtype) for g, p in zip(gradients, params, strict=True))


_branch.defvjp(_branch_forward, _branch_backward)


def _batch(shape: Shape, x: Array) -> int:
    return x.shape[0] if shape.images == 1 else x.shape[1]


def _batched_maps(shape: Shape) -> PartitionSpec:
    return BATCHED if shape.images == 1 else PartitionSpec(None, "data")


def _forward(shape: Shape, interpret: bool, x: Array, params: tuple[Array, ...]) -> Array:
    y = jax.ShapeDtypeStruct((_batch(shape, x), shape.out_features, shape.places), x.dtype)
    sums = pltpu.VMEM((shape.out_features, shape.lanes), jnp.float32)
    scratch = [_projected(shape), *_keys_and_values(shape), sums, *_copied(shape)]
    arguments = [*params, *_constants(shape)]
    specs = [_image_by_features(shape), *map(_whole, arguments)]
    return _call(shape, kernels.forward, [x, *arguments], specs, y, _features_by_image(shape), scratch, interpret)


def _backward(shape: Shape, interpret: bool, x: Array, dy: Array, params: tuple[Array, ...]) -> Any:
    qkv, qkv_bias, out, _, *tables = params
    arguments = [qkv, qkv_bias, out, *tables, *_constants(shape)]
    specs = [_image_by_features(shape), _features_by_image(shape), *map(_whole, arguments)]
    gradients = [jax.ShapeDtypeStruct(param.shape, jnp.float32) for param in params]
    results = [jax.ShapeDtypeStruct(x.shape, x.dtype), *gradients]
    result_specs = [_image_by_features(shape), *map(_whole, gradients)]
    scratch = [_projected(shape), _projected(shape), *_keys_and_values(shape), _map_rows(shape), *_copied(shape)]
    return _call(shape, kernels.backward, [x, dy, *arguments], specs, results, result_specs, scratch, interpret)


def _call(
    shape: Shape,
    kernel: Any,
    arguments: list,
    specs: list,
    results: Any,
    result_specs: Any,
    scratch: list,
    interpret: bool,
) -> Any:
    """One pass over a batch: a program for each image and group of heads, in order."""
    backward = isinstance(results, list)
    batch = _batch(shape, arguments[0])
    flops, exponentials = shape.cost(batch, backward=backward)
    moved = sum(math.prod(a.shape) * a.dtype.itemsize for a in [*arguments, *jax.tree.leaves(results)])
    return pl.pallas_call(
        functools.partial(kernel, shape),
        grid=(batch // shape.images, shape.images, shape.num_heads // shape.group),
        in_specs=specs,
        out_specs=result_specs,
        out_shape=results,
        scratch_shapes=scratch,
        compiler_params=pltpu.CompilerParams(
            dimension_semantics=("arbitrary",) * 3, vmem_limit_bytes=shape.vmem_limit(backward=backward)
        ),
        cost_estimate=pl.CostEstimate(flops=flops, transcendentals=exponentials, bytes_accessed=moved),
        name="relative_attention_" + kernel.__name__,
        interpret=interpret,
    )(*arguments)


def _constants(shape: Shape) -> list[Array]:
    return [jnp.asarray(shape.shifts), jnp.asarray(shape.key_positions, shape.dtype)]


def _image_by_features(shape: Shape) -> pl.BlockSpec:
    if shape.images == 1:
        return pl.BlockSpec((1, shape.lanes, shape.in_features), lambda block, image, group: (block, 0, 0))
    return pl.BlockSpec((shape.places, shape.images, shape.in_features), lambda block, image, group: (0, block, 0))


def _features_by_image(shape: Shape) -> pl.BlockSpec:
    index = lambda block, image, group: (block * shape.images + image, 0, 0)  # noqa: E731
    return pl.BlockSpec((1, shape.out_features, shape.lanes), index)


def _whole(array: Any) -> pl.BlockSpec:
    zeros = (0,) * len(array.shape)
    return pl.BlockSpec(array.shape, lambda block, image, group: zeros)


def _map_rows(shape: Shape) -> Any:
    """A block of maps in float32: strides need arrays of exactly 128 lanes."""
    if shape.images == 1:
        return pltpu.VMEM((shape.lanes, shape.in_features), jnp.float32)
    tiles = round_up(shape.in_features, LANES) // LANES
    return pltpu.VMEM((tiles, shape.lanes * shape.images, LANES), jnp.float32)


def _copied(shape: Shape) -> list[Any]:
    return [] if shape.images == 1 else [_map_rows(shape)]


def _projected(shape: Shape) -> Any:
    return pltpu.VMEM((shape.group, shape.rows, shape.lanes), jnp.float32)


def _keys_and_values(shape: Shape) -> list[Any]:
    return [pltpu.VMEM((rows, shape.lanes), shape.dtype) for rows in (shape.folded_rows, shape.value_rows)]
