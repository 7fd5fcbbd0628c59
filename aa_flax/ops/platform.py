"""The device that a program will run on, which a trace needs to know before the program is compiled."""

import contextlib
from collections.abc import Iterator
from typing import NamedTuple

import jax


class _Target(NamedTuple):
    """What a program is traced for, where the caller says it."""

    platform: str
    kernels: bool


# JAX keys its caches by such contexts, so that what a `jax.jit` has traced for one platform is not taken for another.
_target = jax.make_user_context()
_capability = jax.make_user_context()


def target_platform() -> str:
    """Return the platform that a program traced now will run on: the ambient mesh's, else JAX's default device's.

    It is "cpu", "gpu" or "tpu"; or "onnx", where `traced_for` says so, for a program that is written with the operators
    of ONNX.
    """
    if target := _target.value:
        return target.platform
    device = jax.sharding.get_abstract_mesh().abstract_device
    if device is not None:
        return device.platform
    default = getattr(jax.config, "jax_default_device", None)
    platform = default if isinstance(default, str) else getattr(default, "platform", None) or jax.default_backend()
    return "gpu" if platform in ("cuda", "rocm") else platform


def kernels_allowed() -> bool:
    """Return whether "auto" may choose kernels, which a program that must be plain XLA does not have."""
    return _target.value is None or _target.value.kernels


def target_device_kind() -> str:
    """Return the kind of device ("TPU v4") that a program traced now will run on; "" if only the platform is known."""
    device = jax.sharding.get_abstract_mesh().abstract_device
    if device is not None:
        return device.device_kind
    return "" if _target.value else jax.devices()[0].device_kind


def target_capability() -> tuple[int, int] | None:
    """Return the compute capability of the NVIDIA GPU that a program traced now will run on, such as (9, 0).

    None if it is unknown: for a GPU that this process does not have, unless `traced_with_capability` states it. (0, 0)
    for GPUs of other makers, which have none.
    """
    if capability := _capability.value:
        return capability
    kind = target_device_kind()
    for device in jax.local_devices():
        if device.platform == "gpu" and device.device_kind == kind:
            major, _, minor = str(getattr(device, "compute_capability", "")).partition(".")
            return (int(major), int(minor)) if major.isdigit() and minor.isdigit() else (0, 0)
    return None


@contextlib.contextmanager
def traced_for(platform: str, *, kernels: bool = True) -> Iterator[None]:
    """Make `target_platform` return `platform` inside the context, for programs that are traced here but not run.

    Args:
        platform: "cpu", "gpu", "tpu" or "onnx".
        kernels: whether "auto" may choose kernels; one that is named is computed in any case.
    """
    with _target(_Target(platform, kernels)):
        yield


@contextlib.contextmanager
def traced_with_capability(capability: tuple[int, int]) -> Iterator[None]:
    """Make `target_capability` return `capability` inside the context, to compile for a GPU that is not here."""
    with _capability(capability):
        yield
