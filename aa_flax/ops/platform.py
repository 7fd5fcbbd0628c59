"""The device that a program will run on, which a trace needs to know before the program is compiled."""

import contextlib
import contextvars
from collections.abc import Iterator

import jax

_override: contextvars.ContextVar[str | None] = contextvars.ContextVar("platform", default=None)
_capability: contextvars.ContextVar[tuple[int, int] | None] = contextvars.ContextVar("capability", default=None)


def target_platform() -> str:
    """Return the platform that a program traced now will run on: the ambient mesh's, else JAX's default device's."""
    if platform := _override.get():
        return platform
    device = jax.sharding.get_abstract_mesh().abstract_device
    if device is not None:
        return device.platform
    default = getattr(jax.config, "jax_default_device", None)
    platform = default if isinstance(default, str) else getattr(default, "platform", None) or jax.default_backend()
    return "gpu" if platform in ("cuda", "rocm") else platform


def target_device_kind() -> str:
    """Return the kind of device ("TPU v4") that a program traced now will run on; "" if only the platform is known."""
    device = jax.sharding.get_abstract_mesh().abstract_device
    if device is not None:
        return device.device_kind
    return "" if _override.get() else jax.devices()[0].device_kind


def target_capability() -> tuple[int, int] | None:
    """Return the compute capability of the NVIDIA GPU that a program traced now will run on, such as (9, 0).

    None if it is unknown: for a GPU that this process does not have, unless `traced_with_capability` states it. (0, 0)
    for GPUs of other makers, which have none.
    """
    if capability := _capability.get():
        return capability
    kind = target_device_kind()
    for device in jax.local_devices():
        if device.platform == "gpu" and device.device_kind == kind:
            major, _, minor = str(getattr(device, "compute_capability", "")).partition(".")
            return (int(major), int(minor)) if major.isdigit() and minor.isdigit() else (0, 0)
    return None


@contextlib.contextmanager
def traced_for(platform: str) -> Iterator[None]:
    """Make `target_platform` return `platform` inside the context, for programs that are traced here but not run."""
    token = _override.set(platform)
    try:
        yield
    finally:
        _override.reset(token)


@contextlib.contextmanager
def traced_with_capability(capability: tuple[int, int]) -> Iterator[None]:
    """Make `target_capability` return `capability` inside the context, to compile for a GPU that is not here."""
    token = _capability.set(capability)
    try:
        yield
    finally:
        _capability.reset(token)
