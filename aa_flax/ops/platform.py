"""Where a program will run, which a trace has to know before it is compiled."""

import jax


def target_platform() -> str:
    """Where a program traced now will run: the ambient mesh's devices, else JAX's default device."""
    device = jax.sharding.get_abstract_mesh().abstract_device
    if device is not None:
        return device.platform
    default = getattr(jax.config, "jax_default_device", None)
    platform = default if isinstance(default, str) else getattr(default, "platform", None) or jax.default_backend()
    return "gpu" if platform in ("cuda", "rocm") else platform
