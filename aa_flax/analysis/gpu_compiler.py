"""XLA's compiler for NVIDIA GPUs on a machine without one: devices of a described card, and programs for them."""

import contextlib
import importlib.util
from collections.abc import Iterator
from typing import Any
from unittest import mock

import jax
import jaxlib
import numpy as np
from jax.experimental import topologies
from jax.sharding import Mesh

from aa_flax.analysis.cards import CUDNN, Machine, target_config
from aa_flax.analysis.compiler import CompilerError
from aa_flax.analysis.provenance import package_version
from aa_flax.ops.platform import traced_with_capability

_PLUGINS = ("xla_cuda13", "xla_cuda12")


def installed() -> bool:
    """Whether JAX's plugin for CUDA is there."""
    return bool(packages())


def packages() -> tuple[str, ...]:
    """Distributions whose versions belong to a count: those of the plugin, if it is there."""
    if importlib.util.find_spec("jax_plugins") is None:
        return ()
    found = [name for name in _PLUGINS if importlib.util.find_spec(f"jax_plugins.{name}")]
    return tuple(f"jax-{name.removeprefix('xla_')}-plugin" for name in found[:1])


def prepare() -> None:
    """Keep JAX on the CPU; before the first use of a JAX device.

    Raises:
        CompilerError: JAX's plugin for CUDA is not installed, or is that of another JAX.
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
    """All cards of a machine along one axis, "data", as runs have it.

    Raises:
        CompilerError: the plugin cannot be loaded, or does not take the description of the card.
    """
    try:
        devices = topologies.get_topology_desc(
            platform="cuda", topology=f"1x{wanted.chips}x1", target_config=target_config(wanted.chip)
        ).devices
    except Exception as error:  # JAX raises several types
        raise CompilerError(f"JAX's plugin for CUDA cannot be used: {' '.join(str(error).split())[:300]}") from None
    return Mesh(np.asarray(devices), ("data",), axis_types=(jax.sharding.AxisType.Auto,))


def devices_per_chip(mesh: Mesh) -> int:
    """One: a card is a device."""
    return 1


@contextlib.contextmanager
def traced(wanted: Machine) -> Iterator[None]:
    """While open, this library and JAX are told which card, and which cuDNN, there will be, instead of looking here.

    JAX asks when it traces fused attention. This replaces private functions; a JAX without them looks as ever.
    """
    major, minor, patch = CUDNN

    def at_least(capability: str) -> bool:
        return wanted.chip.capability >= tuple(map(int, capability.split(".")))

    with contextlib.ExitStack() as stack:
        stack.enter_context(traced_with_capability(wanted.chip.capability))
        for name, answer in (
            ("check_cudnn_version", lambda: 10000 * major + 100 * minor + patch),
            ("check_compute_capability", at_least),
        ):
            with contextlib.suppress(AttributeError, ImportError):
                stack.enter_context(mock.patch(f"jax._src.cudnn.fused_attention_stablehlo.{name}", answer))
        yield


def compile_program(lowered: Any) -> Any:
    """A lowered program compiled for its devices.

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
    """What its counts leave out, for people."""
    return (
        "No kernel was tried on a card: which algorithm of cuDNN and which tiles of a product are fastest is not known "
        "here, nor what workspace they take, which is in neither memory nor bytes, nor whether cuDNN serves a call."
    )
