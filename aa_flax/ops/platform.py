"""Where a program will run, which a trace has to know before it is compiled."""

import contextlib
import contextvars
from collections.abc import Iterator

import jax

_override: contextvars.ContextVar[str | None] = contextvars.ContextVar("platform", default=None)
_capability: contextvars.ContextVar[tuple[int, int] | None] = contextvars.ContextVar("capability", default=None)


def target_platform() -> str:
    """Where a program traced now will run: the ambient mesh's devices, else JAX's default device."""
    if platform := _override.get():
        return platform
    device = jax.sharding.get_abstract_mesh().abstract_device
    if device is not None:
        return device.platform
    default = getattr(jax.config, "jax_default_device", None)
    platform = default if isinstance(default, str) else getattr(default, "platform", None) or jax.default_backend()
    return "gpu" if platform in ("cuda", "rocm") else platform


def target_device_kind() -> str:
    """The kind of device that a program traced now will run on ("TPU v4"); "" where only the platform is known."""
    device = jax.sharding.get_abstract_mesh().abstract_device
    if device is not None:
        return device.device_kind
    return "" if _override.get() else jax.devices()[0].device_kind


def target_capability() -> tuple[int, int] | None:
    """The compute capability of the NVIDIA GPU that a program traced now will run on, such as (9, 0).

    None where it is not known: for a card that is not here, unless `traced_with_capability` says it. (0, 0) for GPUs of
    others, which have none.
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
    """While open, `target_platform` answers this; for programs that are traced and not run here."""
    token = _override.set(platform)
    try:
        yield
    finally:
        _override.reset(token)


@contextlib.contextmanager
def traced_with_capability(capability: tuple[int, int]) -> Iterator[None]:
    """While open, `target_capability` answers this; for programs that are compiled for a GPU that is not here."""
    token = _capability.set(capability)
    try:
        yield
    finally:
        _capability.reset(token)
