"""Splitting of kernels and loops over a mesh, which the compiler cannot do by itself."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
from jax.export import is_symbolic_dim
from jax.sharding import AxisType, Mesh, PartitionSpec
from jaxtyping import Array, Float

BATCHED, WHOLE = PartitionSpec("data"), PartitionSpec()


def data_mesh() -> Any:
    """Return the ambient mesh if it can split a batch and no `shard_map` has split it already, else None."""
    mesh: Mesh | Any = jax.sharding.get_abstract_mesh()
    return None if mesh.empty or "data" not in mesh.axis_names or mesh.manual_axes else mesh


def explicit_axes(mesh: Any) -> set[str]:
    """Return the axes of a mesh over which the types of arrays say how they are split (`AxisType.Explicit`)."""
    kinds = zip(mesh.axis_names, mesh.axis_types, strict=True)
    return {name for name, kind in kinds if kind == AxisType.Explicit}


def batch_axes(x: Array) -> tuple[str, ...]:
    """Return the axes of the ambient mesh over which the type of an array says that its first axis is split."""
    mesh: Mesh | Any = jax.sharding.get_abstract_mesh()
    return () if mesh.empty or not explicit_axes(mesh) else next(iter(_typed_axes(x)), ())


def over_batch(run: Callable[..., Array], split: tuple[bool, ...]) -> Callable[..., Array]:
    """Return `run`, for a result that depends on the batch example by example, on each device's examples if need be.

    The need is a mesh whose shardings are part of the types: there JAX refuses many operations on a split batch.

    Args:
        run: returns a batch.
        split: for each of its arguments whether it is a batch, the first of which is; the others are on all devices.
    """

    def on_each_device(*arrays: Array) -> Array:
        axes = batch_axes(arrays[0])
        if not axes:
            return run(*arrays)
        batched = PartitionSpec(axes)
        specs = tuple(batched if each else WHOLE for each in split)
        return jax.shard_map(run, in_specs=specs, out_specs=batched, axis_names={*axes}, check_vma=False)(*arrays)

    return on_each_device


def table_rows(table: Array, indices: Array) -> Array:
    """Return table[indices], of a table that is on all devices; the indices are a batch, which may be split."""
    return over_batch(lambda indices, table: table[indices], (True, False))(indices, table)


def _typed_axes(x: Array) -> list[tuple[str, ...]]:
    """Return the mesh's axes over which the type of an array says that each of its own is split."""
    spec = jax.typeof(x).sharding.spec
    return [() if names is None else (names,) if isinstance(names, str) else tuple(names) for names in spec]


def _is_spec(x: Any) -> bool:
    return isinstance(x, PartitionSpec)


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

    On a mesh whose shardings are part of the types, the type of the first array says whether the batch is split; if it
    is not, each device computes all of it by `alone`.

    Args:
        run: computes a part of a batch; may use the axis "data".
        batch: the number of images.
        arguments, results: their partition specs, as `jax.shard_map` takes them.
        name: of the implementation, for messages.
        alone: what is called without a mesh; None is `run`.

    Raises:
        ValueError: the batch is a symbol of `jax.export`; or, when the function is called, the mesh does not divide it.
    """
    if is_symbolic_dim(batch):
        raise ValueError(f"implementation '{name}' needs a number of images, got the symbol {batch}; use 'folded'")
    mesh = data_mesh()
    if mesh is None:
        return alone or run

    def split(*arrays: Any) -> Any:
        # The kernels' results do not record over which axes they vary, so shard_map cannot check it.
        over = functools.partial(jax.shard_map, check_vma=False)
        if "data" in explicit_axes(mesh) and not any("data" in names for names in _typed_axes(arrays[0])):
            specs = (jax.tree.map(lambda _: WHOLE, each, is_leaf=_is_spec) for each in (arguments, results))
            return over(alone or run, in_specs=next(specs), out_specs=next(specs))(*arrays)
        if batch % mesh.shape["data"]:
            raise ValueError(
                f"implementation '{name}' splits a batch over the mesh's data axis of {mesh.shape['data']}; "
                f"a batch of {batch} does not divide; use 'folded'"
            )
        return over(run, in_specs=arguments, out_specs=results)(*arrays)

    return split


def on_own_images(run: Callable[..., Any], split: tuple[bool, ...], *, name: str) -> Callable[..., Any]:
    """Return `run`, on a mesh that divides the batch for each device's images alone, so that nothing travels.

    Of an operation such as a sort the compiler would gather the whole batch on every device, and a loop until all
    images are done would ask all devices after each round.

    Args:
        run: returns arrays whose first axis is that of images; result by result the same for each image.
        split: for each of its arguments whether it has such an axis; the first has, and the others are whole.
        name: of the operation, for messages.
    """

    def on_each_device(*arrays: Array) -> Any:
        batch, mesh = arrays[0].shape[0], data_mesh()
        if mesh is None or is_symbolic_dim(batch) or batch % mesh.shape["data"]:
            return run(*arrays)
        specs = tuple(BATCHED if each else WHOLE for each in split)
        if "data" in explicit_axes(mesh) and any(map(_is_split, arrays)):
            arrays = tuple(
                jax.sharding.reshard(array, spec) if spec == BATCHED and not _is_split(array) else array
                for array, spec in zip(arrays, specs, strict=True)
            )
        return over_mesh(run, batch, specs, BATCHED, name=name)(*arrays)

    return on_each_device


def _is_split(x: Array) -> bool:
    """Return whether the type of an array says that its first axis is split over the axis "data"."""
    return "data" in next(iter(_typed_axes(x)), ())


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


def shares(query: Float[Array, "b h w n dk"]) -> Shares:
    """Return the split of images over the ambient mesh's axis "data" and of heads over its axis "model".

    An axis of the mesh splits them only if it divides their number and no `shard_map` splits over it already; on a mesh
    whose shardings are part of the types, if the type of the queries says so.
    """
    mesh: Mesh | Any = jax.sharding.get_abstract_mesh()
    if mesh.empty:
        return Shares(None, None, jax.device_count() > 1)
    explicit = explicit_axes(mesh)
    typed = _typed_axes(query) if explicit else [()] * 5
    sizes = {name: mesh.shape[name] for name in mesh.axis_names if name not in mesh.manual_axes}

    def splits(axis: str, dimension: int) -> bool:
        known = axis not in explicit or axis in typed[dimension]
        return known and axis in sizes and query.shape[dimension] % sizes[axis] == 0

    images, heads = (axis if splits(axis, at) else None for axis, at in (("data", 0), ("model", 3)))
    others = [size for axis, size in sizes.items() if axis not in (images, heads) and axis not in explicit]
    return Shares(images, heads, images is None and (max(others, default=1) > 1 or bool(typed[0])))
