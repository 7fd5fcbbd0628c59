"""Where arrays live: one mesh, batches split over its data axis, everything else replicated."""

from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from aa_flax.training.config import ConfigError


def data_mesh() -> Mesh:
    """All devices along one axis, "data"."""
    return jax.make_mesh((jax.device_count(),), ("data",), axis_types=(jax.sharding.AxisType.Auto,))


def replicated(mesh: Mesh) -> NamedSharding:
    """A copy on every device."""
    return NamedSharding(mesh, PartitionSpec())


def check_batch_size(name: str, batch_size: int, mesh: Mesh, pieces: int = 1) -> None:
    """ConfigError unless every device gets the same number of examples of each piece."""
    devices = mesh.devices.size
    if batch_size % (devices * pieces):
        detail = f"{devices} device{'s' * (devices > 1)}" + (
            f" times {pieces} accumulation steps" if pieces > 1 else ""
        )
        raise ConfigError(f"config field {name!r} ({batch_size}) must divide by {detail}")


def place_batch(batch: dict[str, np.ndarray], mesh: Mesh) -> dict[str, Any]:
    """This process's share of a batch as arrays of the whole batch, split over the data axis."""
    sharding = NamedSharding(mesh, PartitionSpec("data"))
    return {name: jax.make_array_from_process_local_data(sharding, value) for name, value in batch.items()}
