"""XLA's compiler for NVIDIA GPUs on a machine without one: devices of a described card, programs compiled for them."""

import contextlib
import importlib.util
from collections.abc import Iterator
from typing import Any

import jax
import jaxlib
import numpy as np
from jax.experimental import topologies
from jax.sharding import Mesh

from aa_flax.analysis.cards import CUDNN, Machine, target_config
from aa_flax.analysis.compiler import CompilerError
from aa_flax.analysis.provenance import package_version
from aa_flax.ops.platform import traced_with_capability
from aa_flax.private_names import cudnn_and_gpu

_PLUGINS = ("xla_cuda13", "xla_cuda12")


def installed() -> bool:
    """Return whether JAX's plugin for CUDA is installed."""
    return bool(packages())


def packages() -> tuple[str, ...]:
    """Return the distributions whose versions counts depend on: that of the plugin, if it is installed."""
    if importlib.util.find_spec("jax_plugins") is None:
        return ()
    found = [name for name in _PLUGINS if importlib.util.find_spec(f"jax_plugins.{name}")]
    return tuple(f"jax-{name.removeprefix('xla_')}-plugin" for name in found[:1])


def prepare() -> None:
    """Keep JAX on the CPU; it must be called before the first use of a JAX device.

    Raises:
        CompilerError: JAX's plugin for CUDA is not installed, or belongs to another version of JAX.
    """
    if not installed():
        raise CompilerError("JAX's plugin for CUDA is not installed: pip install 'aa_flax[plan_gpu]' (Linux only)")
    plugin = packages()[0]
    found = package_version(plugin) or "of unknown version"
    if found != jaxlib.__version__:
        raise CompilerError(
            f"{plugin} {found} does not go with jaxlib {jaxlib.__version__}: pip install --no-deps "
            f"{plugin}=={jaxlib.__version__} {plugin.replace('plugin', 'pjrt')}=={jaxlib.__version__}"
        )
    jax.config.update("jax_platforms", "cpu")


def mesh_of(wanted: Machine) -> Mesh:
    """Return the mesh of all cards of a machine along one axis, "data", as in runs.

    Raises:
        CompilerError: the plugin cannot be loaded, or does not accept the description of the card.
    """
    try:
        devices = topologies.get_topology_desc(
            platform="cuda", topology=f"1x{wanted.chips}x1", target_config=target_config(wanted.chip)
        ).devices
    except Exception as error:  # JAX raises several types
        raise CompilerError(f"JAX's plugin for CUDA cannot be used: {' '.join(str(error).split())[:300]}") from None
    return Mesh(np.asarray(devices), ("data",), axis_types=(jax.sharding.AxisType.Auto,))


def devices_per_chip(mesh: Mesh) -> int:
    """Return 1, because a card is a device."""
    return 1


@contextlib.contextmanager
def traced(wanted: Machine) -> Iterator[None]:
    """Tell this library and JAX, while open, which card and cuDNN the program is for, instead of those of this machine.

    JAX asks for them when it traces fused attention.
    """
    major, minor, patch = CUDNN

    def at_least(capability: str) -> bool:
        return wanted.chip.capability >= tuple(map(int, capability.split(".")))

    with (
        traced_with_capability(wanted.chip.capability),
        cudnn_and_gpu(10000 * major + 100 * minor + patch, at_least),
    ):
        yield


def compile_program(lowered: Any) -> Any:
    """Compile a lowered program for its devices and return it.

    Raises:
        CompilerError: a kernel needs more shared memory or registers than the card has.
    """
    try:
        return lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        message = " ".join(str(error).split())
        if not message.startswith("RESOURCE_EXHAUSTED"):
            raise
        raise CompilerError(f"a kernel needs more than the card has: {message[:300]}") from None


def remarks() -> str:
    """Return what the counts leave out, in words for people."""
    return (
        "No kernel was tried on a card: which algorithm of cuDNN and which tiles of a product are fastest is not known "
        "here, nor what workspace they take, which is in neither memory nor bytes, nor whether cuDNN serves a call."
    )
