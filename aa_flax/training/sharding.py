"""The placement of arrays: one mesh, batches split over its axis "data", the state on every device or split as well."""

import dataclasses
import math
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from aa_flax.config.schema import Config, ConfigError

_SMALL = 4096  # elements; FSDP leaves smaller arrays whole: they take little memory, and each would cost a collective


@dataclasses.dataclass(frozen=True)
class Layout:
    """The placement of a run's arrays.

    Batches are split over the mesh's axis "data". Parameters, optimiser state and averages lie on every device. With
    `fsdp` each of these is split over that axis along its longest dimension that the axis divides (as in Rajbhandari et
    al., 2020). The axis "model" splits only the heads of attention, in `AAConv2D`.
    """

    mesh: Mesh
    fsdp: bool = False

    @classmethod
    def of(cls, config: Config, devices: Any = None) -> "Layout":
        """Return the layout of a config over `devices`, by default all of this run.

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
        """The sharding with a copy on every device."""
        return NamedSharding(self.mesh, PartitionSpec())

    @property
    def batch(self) -> NamedSharding:
        """The sharding that splits examples, the first axis, over the data axis."""
        return NamedSharding(self.mesh, PartitionSpec("data"))

    def of_state(self, tree: Any) -> Any:
        """Return the sharding of each array of a state, or of a part of one, by its shape alone."""
        return jax.tree.map(lambda leaf: NamedSharding(self.mesh, self._spec(leaf.shape)), tree)

    def gathered(self, params: Any) -> Any:
        """Return whole parameters to compute with, inside a trace; split ones would make activations travel."""
        return jax.lax.with_sharding_constraint(params, self.everywhere) if self.fsdp else params

    def scattered(self, gradients: Any) -> Any:
        """Return gradients split as the optimiser needs them, inside a trace.

        They are made whole first, because XLA would split the convolutions otherwise.
        """
        if not self.fsdp:
            return gradients
        whole = jax.lax.with_sharding_constraint(gradients, self.everywhere)
        return jax.lax.with_sharding_constraint(whole, self.of_state(whole))

    def place(self, tree: Any) -> Any:
        """Return arrays of this process's memory, equal in all processes, as arrays of the mesh."""
        return jax.tree.map(self.placed, tree, self.of_state(tree))

    @staticmethod
    def placed(leaf: Any, sharding: NamedSharding) -> jax.Array:
        """Return one array of this process's memory, equal in all processes, as an array with the given sharding."""
        whole = np.asarray(leaf)
        return jax.make_array_from_callback(whole.shape, sharding, lambda index: whole[index])

    def fetched(self, tree: Any) -> Any:
        """Return arrays of the mesh as whole NumPy arrays, in every process."""
        return jax.device_get(jax.jit(lambda tree: tree, out_shardings=self.everywhere)(tree) if self.fsdp else tree)

    def check_batch_size(self, name: str, batch_size: int, pieces: int = 1) -> None:
        """Raise ConfigError unless the data axis splits each of `pieces` micro-batches into equal parts."""
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


def on_these_devices(config: Config, devices: Any = None) -> Config:
    """Return the config of a run as it can be used on `devices`, by default all here, however many it was trained on.

    Attention heads are shared by as many devices as divide both `parallel.model_devices` and the number of devices, and
    `eval_batch_size` is raised to the next number that the others divide. Neither changes a score, apart from rounding.
    """
    found = len(jax.devices()) if devices is None else len(devices)
    heads = math.gcd(found, config.parallel.model_devices)
    parts = found // heads
    return dataclasses.replace(
        config,
        parallel=dataclasses.replace(config.parallel, model_devices=heads),
        eval_batch_size=-(-config.eval_batch_size // parts) * parts,
    )


def local_rows(tree: Any) -> Any:
    """Return this process's rows of arrays of a whole batch, which are split over the data axis, as NumPy arrays."""

    def rows(array: jax.Array) -> np.ndarray:
        shards = {shard.index[0].start or 0: shard.data for shard in array.addressable_shards}
        return np.concatenate([np.asarray(shards[start]) for start in sorted(shards)])

    return jax.tree.map(rows, tree)


def place_batch(batch: dict[str, np.ndarray], layout: Layout) -> dict[str, Any]:
    """Return this process's share of a batch as arrays of the whole batch, split over the data axis."""
    return {name: jax.make_array_from_process_local_data(layout.batch, value) for name, value in batch.items()}
