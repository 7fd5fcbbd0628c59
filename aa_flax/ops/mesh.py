"""Kernels and loops under a mesh: the compiler cannot partition them by itself."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Array

BATCHED, WHOLE = PartitionSpec("data"), PartitionSpec()


def data_mesh() -> Any:
    """The ambient mesh if it can split a batch and no `shard_map` has split it already, else None."""
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
    """`run` on each device's part of the batch where there is a mesh to split it over, else `alone` on all of it.

    Args:
        run: may use the axis "data".
        batch: how many images there are.
        arguments, results: their partition specs, as `jax.shard_map` takes them.
        name: of the implementation, for messages.
        alone: `run` without a mesh, if it is another function.

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
    # The kernels' results carry no record of what they vary over, so shard_map cannot check it.
    return jax.shard_map(run, in_specs=arguments, out_specs=results, check_vma=False)


def varying_alike(arrays: Any) -> Any:
    """The arrays of a tree, each varying over the devices of a `shard_map` that checks it as soon as one of them does.

    So do a kernel's results, see `result_like`; a gradient by what was the same everywhere becomes a sum.
    """
    varied = [jax.typeof(array).manual_axis_type.varying for array in jax.tree.leaves(arrays)]
    axes = frozenset[Any]().union(*varied)

    def cast(array: Array) -> Array:
        missing = axes - jax.typeof(array).manual_axis_type.varying
        return jax.lax.pcast(array, tuple(missing), to="varying") if missing else array

    return jax.tree.map(cast, arrays) if axes else arrays


def result_like(array: Array, result: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
    """`result`, of a kernel, varying as one of its arguments does."""
    varies = jax.typeof(array).manual_axis_type
    return jax.ShapeDtypeStruct(result.shape, result.dtype, manual_axis_type=varies)


@dataclasses.dataclass(frozen=True)
class Shares:
    """How the devices share out attention's arrays [b, h, w, n, depth]; None: an axis of the array is whole."""

    images: str | None  # the mesh's axis over which the images are split
    heads: str | None
    unknown: bool  # whether devices may hold parts of the batch besides, which the compiler knows and a trace does not

    def over(self, attend: Callable[..., Array], tables: int) -> Callable[..., Array]:
        """`attend(query, key, value, *tables)` on each device's images and heads."""
        own = {axis for axis in (self.images, self.heads) if axis}
        if not own:
            return attend
        maps = PartitionSpec(self.images, None, None, self.heads)
        specs = (maps,) * 3 + (WHOLE,) * tables
        return jax.shard_map(attend, in_specs=specs, out_specs=maps, axis_names=own, check_vma=False)


def shares(batch: int, num_heads: int) -> Shares:
    """Images over the ambient mesh's axis "data", heads over "model": where they divide and no `shard_map` did so."""
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
