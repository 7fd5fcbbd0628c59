"""The device that JAX uses on this machine: its kind, its free memory and its published peaks."""

import os
from dataclasses import dataclass
from pathlib import Path

import jax

from aa_flax.analysis.cards import CARDS
from aa_flax.analysis.slices import CHIPS

KINDS = ("auto", "cpu", "gpu", "tpu")
_PLATFORMS = {"cpu": "cpu", "gpu": "cuda", "tpu": "tpu"}


@dataclass(frozen=True)
class Peak:
    """Published figures of a device, dense bfloat16."""

    flops: float  # operations per second
    bandwidth: float  # bytes per second
    source: str


# Keys are the driver's names of the devices.
PEAKS = {
    **{card.title: Peak(card.peaks["bfloat16"], card.hbm_bandwidth, card.source) for card in CARDS.values()},
    "NVIDIA H100 PCIe": Peak(756e12, 2.0e12, "NVIDIA H100 datasheet, PCIe"),
    "NVIDIA A100-SXM4-40GB": Peak(312e12, 1.555e12, "NVIDIA A100 datasheet"),
    "TPU v5 lite": Peak(CHIPS["v5e"].flops, CHIPS["v5e"].hbm_bandwidth, CHIPS["v5e"].source),
}


def use(kind: str) -> None:
    """Make JAX use a kind of device; it must be called before the first array.

    Raises:
        SystemExit: there is no such device.
    """
    # Otherwise JAX would take the part of a GPU's memory that PyTorch needs.
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    if kind != "auto":
        jax.config.update("jax_platforms", _PLATFORMS[kind])
    try:
        jax.devices()
    except (RuntimeError, AssertionError) as error:  # JAX asserts that a platform that it lacks was registered
        raise SystemExit(f"--device {kind}: {' '.join(str(error).split()) or 'there is none here'}") from None


def peak() -> Peak | None:
    """Return the peak figures of the device in use, None if they are not known."""
    return PEAKS.get(jax.devices()[0].device_kind)


def free_bytes() -> int:
    """Return the bytes of memory that a program may take now."""
    device = jax.devices()[0]
    if device.platform != "cpu":
        stats = device.memory_stats() or {}
        return stats.get("bytes_limit", 1 << 60) - stats.get("bytes_in_use", 0)
    meminfo = Path("/proc/meminfo")
    if not meminfo.exists():
        return 1 << 60
    lines = dict(line.split(":", 1) for line in meminfo.read_text().splitlines())
    return 1024 * int(lines["MemAvailable"].split()[0])
