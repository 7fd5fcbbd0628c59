"""The attention branch as one TPU kernel per pass: projections, relative attention, output projection."""

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jax.sharding import PartitionSpec
from jaxtyping import Array, Float

from aa_flax.ops.pallas_tpu import kernels
from aa_flax.ops.pallas_tpu.shape import Shape
from aa_flax.ops.platform import target_platform


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
    shape.check()
    tables = [] if rel_height is None or rel_width is None else [rel_width, rel_height]
    packed = _pack(shape, qkv_kernel, qkv_bias, out_kernel, out_bias, tables)
    y = _branch(shape, interpret, x.reshape(b, h * w, c), packed)
    return y.swapaxes(1, 2).reshape(b, h, w, out_features)


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
    return _over_mesh(run, x.shape[0], [True, False], True)(x, params)


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

    split = _over_mesh(summed, x.shape[0], [True, True, False], (True, False), alone=run)
    dx, gradients = split(x, dy, params)
    return dx, tuple(g.astype(p.dtype) for g, p in zip(gradients, params, strict=True))


_branch.defvjp(_branch_forward, _branch_backward)


def _over_mesh(
    run: Callable[..., Any], batch: int, arguments: list[bool], results: Any, alone: Callable[..., Any] | None = None
) -> Callable[..., Any]:
    """`run` on each device's part of the batch where there is a mesh to split it over, else `alone` on all of it.

    `arguments` and `results` say what has a batch axis. The compiler cannot partition a kernel by itself.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or "data" not in mesh.axis_names or mesh.manual_axes:
        return alone or run
    if batch % mesh.shape["data"]:
        raise ValueError(
            f"implementation 'pallas_tpu' splits a batch over the mesh's data axis of {mesh.shape['data']}; "
            f"a batch of {batch} does not divide"
        )
    spec = lambda batched: PartitionSpec("data") if batched else PartitionSpec()  # noqa: E731
    # The kernels' results carry no record of what they vary over, so shard_map cannot check it.
    return jax.shard_map(
        run,
        in_specs=tuple(map(spec, arguments)),
        out_specs=jax.tree.map(spec, results),
        check_vma=False,
    )


def _forward(shape: Shape, interpret: bool, x: Array, params: tuple[Array, ...]) -> Array:
    y = jax.ShapeDtypeStruct((x.shape[0], shape.out_features, shape.places), x.dtype)
    scratch = [_projected(shape), *_keys_and_values(shape), pltpu.VMEM((shape.out_features, shape.lanes), jnp.float32)]
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
    sums = pltpu.VMEM((shape.lanes, shape.in_features), jnp.float32)
    scratch = [_projected(shape), _projected(shape), *_keys_and_values(shape), sums]
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
    batch = arguments[0].shape[0]
    flops, exponentials = shape.cost(batch, backward=backward)
    moved = sum(math.prod(a.shape) * a.dtype.itemsize for a in [*arguments, *jax.tree.leaves(results)])
    return pl.pallas_call(
        functools.partial(kernel, shape),
        grid=(batch, shape.num_heads // shape.group),
        in_specs=specs,
        out_specs=result_specs,
        out_shape=results,
        scratch_shapes=scratch,
        compiler_params=pltpu.CompilerParams(
            dimension_semantics=("arbitrary", "arbitrary"), vmem_limit_bytes=shape.vmem_limit(backward=backward)
        ),
        cost_estimate=pl.CostEstimate(flops=flops, transcendentals=exponentials, bytes_accessed=moved),
        name="relative_attention_" + kernel.__name__,
        interpret=interpret,
    )(*arguments)


def _constants(shape: Shape) -> list[Array]:
    return [jnp.asarray(shape.shifts), jnp.asarray(shape.key_positions, shape.dtype)]


def _image_by_features(shape: Shape) -> pl.BlockSpec:
    return pl.BlockSpec((1, shape.lanes, shape.in_features), lambda image, group: (image, 0, 0))


def _features_by_image(shape: Shape) -> pl.BlockSpec:
    return pl.BlockSpec((1, shape.out_features, shape.lanes), lambda image, group: (image, 0, 0))


def _whole(array: Any) -> pl.BlockSpec:
    zeros = (0,) * len(array.shape)
    return pl.BlockSpec(array.shape, lambda image, group: zeros)


def _projected(shape: Shape) -> Any:
    return pltpu.VMEM((shape.group, shape.rows, shape.lanes), jnp.float32)


def _keys_and_values(shape: Shape) -> list[Any]:
    return [pltpu.VMEM((rows, shape.lanes), shape.dtype) for rows in (shape.folded_rows, shape.value_rows)]
