"""XLA's compiler for NVIDIA GPUs on a machine without one: devices of a described card, and programs for them.

Nothing is tried on a device: which algorithm of cuDNN or cuBLAS, which tiles of a product would be fastest is not
known, nor how much workspace they take, nor whether cuDNN serves a call. What programs read and write is, so such
programs are for counting.
"""

import contextlib
import importlib.util
from collections.abc import Iterator
from typing import Any
from unittest import mock

import jax
import numpy as np
from jax.experimental import topologies
from jax.sharding import Mesh

from aa_flax.analysis.cards import CUDNN, Machine, target_config
from aa_flax.analysis.compiler import CompilerError

_PLUGINS = ("xla_cuda13", "xla_cuda12")


def installed() -> bool:
    """Whether JAX's plugin for CUDA is there."""
    return any(map(_has, _PLUGINS))


def _has(plugin: str) -> bool:
    return bool(importlib.util.find_spec("jax_plugins") and importlib.util.find_spec(f"jax_plugins.{plugin}"))


def packages() -> tuple[str, ...]:
    """Distributions whose versions belong to a count."""
    return tuple(f"jax-{name.removeprefix('xla_')}-plugin" for name in _PLUGINS if _has(name))


def prepare() -> None:
    """Keep JAX on the CPU; before the first use of a JAX device.

    Raises:
        CompilerError: JAX's plugin for CUDA is not installed.
    """
    if not installed():
        raise CompilerError("JAX's CUDA plugin is not installed: pip install 'aa_flax[plan_gpu]' (Linux only)")
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
        raise CompilerError(f"JAX's CUDA plugin cannot be used: {' '.join(str(error).split())}") from None
    return Mesh(np.asarray(devices), ("data",), axis_types=(jax.sharding.AxisType.Auto,))


def devices_per_chip(mesh: Mesh) -> int:
    """One: a card is a device."""
    return 1


@contextlib.contextmanager
def traced(wanted: Machine) -> Iterator[None]:
    """While open, JAX is told which cuDNN and which card there will be, instead of looking for them here.

    It asks when it traces fused attention. This replaces private functions; a JAX without them looks as ever.
    """
    major, minor, patch = CUDNN
    capability = wanted.chip.capability

    def at_least(text: str) -> bool:
        return capability >= tuple(map(int, text.split(".")))

    with contextlib.ExitStack() as stack:
        for name, answer in (
            ("check_cudnn_version", lambda: 10000 * major + 100 * minor + patch),
            ("check_compute_capability", at_least),
        ):
            with contextlib.suppress(AttributeError, ImportError):
                stack.enter_context(mock.patch(f"jax._src.cudnn.fused_attention_stablehlo.{name}", answer))
        yield


def compile_program(lowered: Any) -> Any:
    """A lowered program compiled for its devices."""
    return lowered.compile()
