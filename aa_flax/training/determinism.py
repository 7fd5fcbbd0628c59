"""Bit for bit the same result of the same run: what has to be asked of XLA for that."""

import os

import jax

from aa_flax.config.schema import ConfigError

FLAGS: dict[str, tuple[str, ...]] = {
    "cpu": (),
    "tpu": (),
    "gpu": ("--xla_gpu_deterministic_ops=true",),
}
"""By platform, in `XLA_FLAGS`. CPUs and TPUs compute the same program in the same order every time; on NVIDIA GPUs sums
by atomic additions and the choice of convolution algorithms by timing do not."""


def ask() -> None:
    """Set the flags of all platforms; before the first use of a JAX device."""
    given = os.environ.get("XLA_FLAGS", "")
    missing = [flag for flags in FLAGS.values() for flag in flags if flag not in given]
    os.environ["XLA_FLAGS"] = " ".join([given, *missing]).strip()


def check() -> tuple[str, ...]:
    """The flags that hold here; ConfigError where one was not set in time."""
    flags = FLAGS[jax.default_backend() if jax.default_backend() in FLAGS else "gpu"]
    missing = [flag for flag in flags if flag not in os.environ.get("XLA_FLAGS", "")]
    if missing:
        raise ConfigError(f"config field 'deterministic' needs XLA_FLAGS='{' '.join(missing)}' in the environment")
    return flags
