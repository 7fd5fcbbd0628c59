"""Where arrays live: one mesh, batches split over its axis "data", the state on every device or split as well."""

import dataclasses
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from aa_flax.config.schema import Config, ConfigError

_SMALL = 4096  # elements of arrays that FSDP leaves whole: they weigh nothing, and each would cost a collective


@dataclasses.dataclass(frozen=True)
class Layout:
    """The placement of a run's arrays.

    Batches are split over the mesh's axis "data". Parameters, optimiser state and averages lie on every device, or with
    `fsdp` each is split over that axis along its longest dimension that divides (as in Rajbhandari et al., 2020). Over
    the axis "model" only the heads of attention are split, by `AAConv2D`.
    """

    mesh: Mesh
    fsdp: bool = False

    @classmethod
    def of(cls, config: Config, devices: Any = None) -> "Layout":
        """As a config says, over `devices`, by default all of this run.

        Raises:
            ConfigError: the devices do not divide by `parallel.model_devices`.
        """
        found, heads = list(jax.devices() if devices is None else np.ravel(devices)), config.parallel.model_devices
        if len(found) % heads:
            raise ConfigError(f"config field 'parallel.model_devices' ({heads}) must divide the {len(found)} devices")
        sizes, types = (len(found) // heads, heads), (AxisType.Auto,) * 2
        return cls(jax.make_mesh(sizes, ("data", "model"), axis_types=types, devices=found), config.parallel.fsdp)

    @property
    def everywhere(self) -> NamedSharding:
        """A copy on every device."""
        return NamedSharding(self.mesh, PartitionSpec())

    @property
    def batch(self) -> NamedSharding:
        """Examples, the first axis, split over the data axis."""
        return NamedSharding(self.mesh, PartitionSpec("data"))

    def of_state(self, tree: Any) -> Any:
        """The sharding of each array of a state, or of a part of one, by its shape alone."""
        return jax.tree.map(lambda leaf: NamedSharding(self.mesh, self._spec(leaf.shape)), tree)

    def gathered(self, params: Any) -> Any:
        """Inside a trace: whole parameters, to compute with. Otherwise the activations would travel."""
        return jax.lax.with_sharding_constraint(params, self.everywhere) if self.fsdp else params

    def scattered(self, gradients: Any) -> Any:
        """Inside a trace: gradients where the optimiser needs them; whole before, or convolutions would be split."""
        if not self.fsdp:
            return gradients
        whole = jax.lax.with_sharding_constraint(gradients, self.everywhere)
        return jax.lax.with_sharding_constraint(whole, self.of_state(whole))

    def place(self, tree: Any) -> Any:
        """Arrays of this process's memory, equal in all processes, as arrays of the mesh; each device gets its part."""
        return jax.tree.map(self.placed, tree, self.of_state(tree))

    @staticmethod
    def placed(leaf: Any, sharding: NamedSharding) -> jax.Array:
        """The same for one array, in a place of its own."""
        whole = np.asarray(leaf)
        return jax.make_array_from_callback(whole.shape, sharding, lambda index: whole[index])

    def fetched(self, tree: Any) -> Any:
        """Whole NumPy arrays of arrays of the mesh, in every process."""
        return jax.device_get(jax.jit(lambda tree: tree, out_shardings=self.everywhere)(tree) if self.fsdp else tree)

    def check_batch_size(self, name: str, batch_size: int, pieces: int = 1) -> None:
        """ConfigError unless each part of the data axis gets the same number of examples of each piece."""
        parts = self.mesh.shape["data"]
        if batch_size % (parts * pieces):
            times = f" times {pieces} accumulation steps" if pieces > 1 else ""
            devices = f"{parts} device{'s' * (parts > 1)}"
            raise ConfigError(f"config field {name!r} ({batch_size}) must divide by {devices}{times}")

    def _spec(self, shape: tuple[int, ...]) -> PartitionSpec:
        parts = self.mesh.shape["data"]
        dividing = [axis for axis, length in enumerate(shape) if length % parts == 0]
        if not self.fsdp or parts == 1 or not dividing or np.prod(shape) < _SMALL:
            return PartitionSpec()
        chosen = max(dividing, key=lambda axis: (shape[axis], axis))
        return PartitionSpec(*(None,) * chosen, "data")


def place_batch(batch: dict[str, np.ndarray], layout: Layout) -> dict[str, Any]:
    """This process's share of a batch as arrays of the whole batch, split over the data axis."""
    return {name: jax.make_array_from_process_local_data(layout.batch, value) for name, value in batch.items()}
