"""Splitting of kernels and loops over a mesh, which the compiler cannot do by itself."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Array

BATCHED, WHOLE = PartitionSpec("data"), PartitionSpec()


def data_mesh() -> Any:
    """Return the ambient mesh if it can split a batch and no `shard_map` has split it already, else None."""
    mesh: Mesh | Any = jax.sharding.get_abstract_mesh()
    return None if mesh.empty or "data" not in mesh.axis_names or mesh.manual_axes else mesh


def over_mesh(
    run: Callable[..., Any],
    batch: int,
    arguments: tuple[Any, ...],
    results: Any,
    *,
    name: str,
    alone: Callable[..., Any] | None = None,
) -> Callable[..., Any]:
    """Return a function that calls `run` on each device's part of the batch, or without a mesh `alone` on all of it.

    Args:
        run: computes a part of a batch; may use the axis "data".
        batch: the number of images.
        arguments, results: their partition specs, as `jax.shard_map` takes them.
        name: of the implementation, for messages.
        alone: what is called without a mesh; None is `run`.

    Raises:
        ValueError: the mesh does not divide the batch.
    """
    mesh = data_mesh()
    if mesh is None:
        return alone or run
    if batch % mesh.shape["data"]:
        raise ValueError(
            f"implementation '{name}' splits a batch over the mesh's data axis of {mesh.shape['data']}; "
            f"a batch of {batch} does not divide; use 'folded'"
        )
    # The kernels' results do not record over which axes they vary, so shard_map cannot check it.
    return jax.shard_map(run, in_specs=arguments, out_specs=results, check_vma=False)


def varying_alike(arrays: Any) -> Any:
    """Return the arrays of a tree, all marked as varying over every mesh axis over which one of them varies.

    A `shard_map` that checks this needs it for a kernel, whose results vary as one of its arguments does, see
    `result_like`. The gradient of an array that was the same on all devices becomes a sum over them.
    """
    varied = [jax.typeof(array).manual_axis_type.varying for array in jax.tree.leaves(arrays)]
    axes = frozenset[Any]().union(*varied)

    def cast(array: Array) -> Array:
        missing = axes - jax.typeof(array).manual_axis_type.varying
        return jax.lax.pcast(array, tuple(missing), to="varying") if missing else array

    return jax.tree.map(cast, arrays) if axes else arrays


def result_like(array: Array, result: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
    """Return `result`, the shape of a kernel's result, marked as varying over the axes over which `array` varies."""
    varies = jax.typeof(array).manual_axis_type
    return jax.ShapeDtypeStruct(result.shape, result.dtype, manual_axis_type=varies)


@dataclasses.dataclass(frozen=True)
class Shares:
    """Split of attention's arrays [b, h, w, n, depth] over the devices; None: an axis of the arrays is not split."""

    images: str | None  # the mesh's axis over which the images are split
    heads: str | None  # the same of the heads
    unknown: bool  # whether the batch may be split in other ways too, which the compiler knows and a trace does not

    def over(self, attend: Callable[..., Array], tables: int) -> Callable[..., Array]:
        """Return a function that calls `attend(query, key, value, *tables)` on each device's images and heads."""
        own = {axis for axis in (self.images, self.heads) if axis}
        if not own:
            return attend
        maps = PartitionSpec(self.images, None, None, self.heads)
        specs = (maps,) * 3 + (WHOLE,) * tables
        return jax.shard_map(attend, in_specs=specs, out_specs=maps, axis_names=own, check_vma=False)


def shares(batch: int, num_heads: int) -> Shares:
    """Return the split of images over the ambient mesh's axis "data" and of heads over its axis "model".

    An axis of the mesh splits them only if it divides their number and no `shard_map` splits over it already.
    """
    mesh: Mesh | Any = jax.sharding.get_abstract_mesh()
    if mesh.empty:
        return Shares(None, None, jax.device_count() > 1)
    sizes = {name: mesh.shape[name] for name in mesh.axis_names if name not in mesh.manual_axes}
    images, heads = (
        axis if axis in sizes and length % sizes[axis] == 0 else None
        for axis, length in (("data", batch), ("model", num_heads))
    )
    others = [size for axis, size in sizes.items() if axis not in (images, heads)]
    return Shares(images, heads, images is None and max(others, default=1) > 1)
