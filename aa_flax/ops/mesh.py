"""Kernels under a mesh: the compiler cannot partition them by itself."""

from collections.abc import Callable
from typing import Any

import jax
from jax.sharding import Mesh, PartitionSpec

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
