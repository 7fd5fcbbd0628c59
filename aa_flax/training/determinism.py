"""The XLA flags with which a repeated run gives the same result bit for bit."""

import os

import jax

from aa_flax.config.schema import ConfigError

FLAGS: dict[str, tuple[str, ...]] = {
    "cpu": (),
    "tpu": (),
    "gpu": ("--xla_gpu_deterministic_ops=true",),
}
"""What `XLA_FLAGS` needs on each platform. CPUs and TPUs compute a program in the same order every time. NVIDIA GPUs do
not: they sum by atomic additions, and convolution algorithms are chosen by timing."""


def ask() -> None:
    """Add the flags of all platforms to `XLA_FLAGS`; call it before the first use of a JAX device."""
    given = os.environ.get("XLA_FLAGS", "")
    missing = [flag for flags in FLAGS.values() for flag in flags if flag not in given]
    os.environ["XLA_FLAGS"] = " ".join([given, *missing]).strip()


def check() -> tuple[str, ...]:
    """Return the flags of this platform; raise ConfigError where `XLA_FLAGS` lacks one."""
    flags = FLAGS[jax.default_backend() if jax.default_backend() in FLAGS else "gpu"]
    missing = [flag for flag in flags if flag not in os.environ.get("XLA_FLAGS", "")]
    if missing:
        raise ConfigError(f"config field 'deterministic' needs XLA_FLAGS='{' '.join(missing)}' in the environment")
    return flags
