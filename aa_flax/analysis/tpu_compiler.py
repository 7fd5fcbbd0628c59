"""libtpu's compiler on a machine without a TPU: the devices of a named slice, and programs compiled for them."""

import contextlib
import importlib.util
import os
import re
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
from jax.experimental import topologies
from jax.sharding import Mesh

from aa_flax.analysis.compiler import CompilerError, DoesNotFit, TargetError
from aa_flax.analysis.slices import Slice

_ENVIRONMENT = {
    "TPU_SKIP_MDS_QUERY": "1",  # there is no metadata server
    "TPU_ACCELERATOR_TYPE": "v5litepod-4",  # of the host that would run it; any type serves for every slice
    "TPU_WORKER_HOSTNAMES": "localhost",
}
_QUIET = {"TPU_LOG_DIR": "disabled", "TPU_STDERR_LOG_LEVEL": "3", "TPU_MIN_LOG_LEVEL": "3"}


def installed() -> bool:
    """Return whether there is a libtpu, as a package or where TPU_LIBRARY_PATH says."""
    return bool(os.environ.get("TPU_LIBRARY_PATH")) or importlib.util.find_spec("libtpu") is not None


def packages() -> tuple[str, ...]:
    """Return the distributions whose versions counts depend on."""
    return ("libtpu",)


def prepare() -> None:
    """Set libtpu's environment and keep JAX on the CPU; it must be called before the first use of a JAX device.

    Raises:
        CompilerError: libtpu is not installed.
    """
    if not installed():
        raise CompilerError("libtpu is not installed: pip install 'aa_flax[plan]' (Linux on x86-64 only)")
    os.environ.update(_ENVIRONMENT)
    for name, value in _QUIET.items():
        os.environ.setdefault(name, value)
    jax.config.update("jax_platforms", "cpu")


def mesh_of(wanted: Slice) -> Mesh:
    """Return the mesh of all devices of a slice along one axis, "data", as in runs.

    Raises:
        TargetError: libtpu does not know a slice of that shape.
        CompilerError: libtpu cannot be loaded, most often because another process uses it.
    """
    options: dict[str, Any] = {"chips_per_host_bounds": wanted.chips_per_host}
    if wanted.chip.generation == "v4":
        options["chip_config_name"] = "megacore"  # both cores as one device, as v4 runs; libtpu's default here is two
    try:
        devices = topologies.get_topology_desc(platform="tpu", topology_name=wanted.topology, **options).devices
    except Exception as error:  # JAX raises several types, RuntimeError among them
        message = " ".join(str(error).split())
        if "lockfile" in message or "already in use" in message:
            raise CompilerError(
                "another process is using libtpu (it holds the lock file), which serves one at a time: wait for it; on "
                "a machine without a TPU ALLOW_MULTIPLE_LIBTPU_LOAD=1 lets several"
            ) from None
        if "INVALID_ARGUMENT" in message or "NOT_FOUND" in message:
            raise TargetError(f"topology {wanted.topology!r}: {message}") from None
        raise CompilerError(f"libtpu cannot be loaded: {message}") from None
    return Mesh(np.asarray(devices), ("data",), axis_types=(jax.sharding.AxisType.Auto,))


def devices_per_chip(mesh: Mesh) -> int:
    """Return how many devices share a chip."""
    return mesh.devices.size // len({tuple(device.coords) for device in mesh.devices.flat})


@contextlib.contextmanager
def traced(wanted: Slice) -> Iterator[None]:
    """Do nothing: the mesh's devices answer all that JAX asks when it traces."""
    yield


def compile_program(lowered: Any) -> Any:
    """Compile a lowered program for its devices and return it.

    Raises:
        DoesNotFit: the program needs more HBM than a device has.
        CompilerError: a kernel needs more VMEM than a core has, which a smaller batch does not change.
    """
    try:
        return lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        message = str(error)
        if not message.startswith("RESOURCE_EXHAUSTED"):
            raise
        if "memory space vmem" in message:
            raise CompilerError(
                f"a kernel needs more VMEM than the chip has: {' '.join(message.split())[:300]}"
            ) from None
        needed = re.search(r"(?:temporaries \(|Used )([\d.]+[KMGT]?)", message)
        raise DoesNotFit(_bytes(needed[1]) if needed else None) from None


def remarks() -> str:
    """Return "", because the counts leave nothing out."""
    return ""


def _bytes(text: str) -> int:
    """Return the bytes of a number such as 15.75G, which XLA writes in powers of 1024."""
    scale = {"K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}.get(text[-1])
    return round(float(text[:-1]) * scale) if scale else round(float(text))
