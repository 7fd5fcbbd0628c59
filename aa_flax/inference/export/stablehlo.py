"""Networks as StableHLO: the bytes of a `jax.export.Exported`, which JAX runs without this library."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.export

from aa_flax.inference.export.errors import ExportError
from aa_flax.inference.export.served import Program, Served
from aa_flax.ops.platform import traced_for

PLATFORMS = ("cpu", "cuda", "tpu")
"""Platforms as JAX names them in an export."""
_LAYOUT = jax.export.DisabledSafetyCheck.custom_call("LayoutConstraint")
"""XLA's hint of a layout in memory, for the operands of a kernel; JAX promises nothing of it to later versions."""


def form_for(served: Served, platform: str, kernels: bool = False) -> Callable[..., dict[str, Any]]:
    """Return the function (variables, *inputs) that computes the network as is best on a platform of `PLATFORMS`."""

    def run(variables: Any, *arrays: Any) -> dict[str, Any]:
        with traced_for("gpu" if platform == "cuda" else platform, kernels=kernels):
            return served(variables, *arrays)

    return run


def as_stablehlo(served: Served, platforms: Sequence[str], batch: int | None, kernels: bool) -> bytes:
    """Return the program that computes a network on platforms, each in the form that is best there.

    One program serves several platforms: it has the parameters once and a form of the network for each platform, of
    which JAX compiles the one that it runs on.

    Args:
        served: the network.
        platforms: of `PLATFORMS`.
        batch: the number of images; None leaves it open.
        kernels: whether attention may be a kernel; Pallas's of TPUs are the only ones that JAX keeps loadable.

    Raises:
        ExportError: the network cannot be traced so.
    """
    forms = {platform: form_for(served, platform, kernels) for platform in platforms}

    def network(*arrays: Any) -> dict[str, Any]:
        if len(forms) == 1:
            return forms[platforms[0]](served.variables, *arrays)
        return jax.lax.platform_dependent(served.variables, *arrays, **forms)

    inputs = served.shapes(batch)
    exporter = jax.export.export(jax.jit(network), platforms=platforms, disabled_checks=[_LAYOUT] if kernels else [])
    try:
        exported = exporter(*inputs)
    except (ValueError, RuntimeError, NotImplementedError) as error:
        reason = str(error).strip().partition("\n")[0]
        free = "" if batch else " with a free batch; a fixed one may do, batch=NUMBER"
        raise ExportError(f"no program for {', '.join(platforms)} can be made{free} ({reason})") from error
    try:
        return bytes(exported.serialize())
    except ImportError:
        raise ExportError("JAX needs flatbuffers for that: pip install 'aa_flax[export]'") from None


def from_stablehlo(content: bytes) -> Program:
    """Return the program in the bytes of a file."""
    return jax.jit(jax.export.deserialize(bytearray(content)).call)


@functools.cache
def device_of(platform: str) -> Any:
    """Return a device of a platform, None if this machine has none."""
    try:
        return jax.local_devices(backend=platform)[0]
    except RuntimeError:
        return None
