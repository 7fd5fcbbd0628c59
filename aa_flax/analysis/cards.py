"""NVIDIA GPUs by name: what a card can do at most, and its description for XLA's compiler."""

import os
import re
from dataclasses import dataclass

from aa_flax.analysis.compiler import TargetError


@dataclass(frozen=True)
class Card:
    """Published figures of one card.

    Operations per second are dense ones of the tensor cores, and for float32 those of the ordinary cores. Sources: the
    card's data sheet for peaks, bandwidths and memory; the white paper of its architecture for multiprocessors, clock
    and L2; the table of compute capabilities in NVIDIA's CUDA programming guide for what a multiprocessor holds.
    """

    name: str
    title: str  # as CUDA calls it
    capability: tuple[int, int]
    multiprocessors: int
    cores: int  # that add and multiply in float32, of a multiprocessor
    clock_ghz: float
    threads: int  # resident on a multiprocessor
    shared_bytes: int  # of a multiprocessor
    l2_bytes: int
    memory_bytes: int  # as CUDA reports it
    hbm_bandwidth: float  # bytes per second
    link_bandwidth: float  # bytes per second to other cards, out
    flops: dict[str, float]  # per second
    source: str

    @property
    def usable_bytes(self) -> int:
        """What JAX takes of the card for its arrays: three quarters unless XLA_PYTHON_CLIENT_MEM_FRACTION says."""
        return round(float(os.environ.get("XLA_PYTHON_CLIENT_MEM_FRACTION", "0.75")) * self.memory_bytes)


_MIB = 2**20
_NVIDIA = "https://www.nvidia.com/en-us/data-center"

CARDS = {
    card.name: card
    for card in (
        Card(
            name="h100",
            title="NVIDIA H100 80GB HBM3",
            capability=(9, 0),
            multiprocessors=132,
            cores=128,
            clock_ghz=1.98,
            threads=2048,
            shared_bytes=228 * 1024,
            l2_bytes=50 * _MIB,
            memory_bytes=84_942_979_072,
            hbm_bandwidth=3.35e12,
            link_bandwidth=450e9,
            flops={"bfloat16": 989e12, "tf32": 494e12, "float32": 67e12, "float64": 67e12},
            source=f"{_NVIDIA}/h100",
        ),
    )
}


@dataclass(frozen=True)
class Machine:
    """Cards of one kind in one machine, such as h100:8."""

    chip: Card
    chips: int

    @property
    def topology(self) -> str:
        """Card and number."""
        return f"{self.chip.name}:{self.chips}"


def find_machine(name: str) -> Machine:
    """The machine of a name such as `h100:8`.

    Raises:
        TargetError: an unknown card, or no number of them from 1 to 8.
    """
    card, _, count = name.partition(":")
    if card not in CARDS:
        raise TargetError(f"topology {name!r} must be of one of {', '.join(CARDS)}, such as h100:1 or h100:8")
    if not re.fullmatch(r"[1-8]", count):
        raise TargetError(f"topology {name!r} must say how many cards, from 1 to 8, such as {card}:1 or {card}:8")
    return Machine(CARDS[card], int(count))


def target_config(card: Card) -> str:
    """The card as XLA's compiler wants it described: a `GpuTargetConfigProto` as text."""
    major, minor = card.capability
    accelerated = "ACCELERATED_FEATURES" if major >= 9 else "NONE"
    return f"""
gpu_device_info {{
  name: "{card.title}"
  device_vendor: "NVIDIA Corporation"
  cuda_compute_capability {{ major: {major} minor: {minor} feature_extension: {accelerated} }}
  core_count: {card.multiprocessors}
  fpus_per_core: {card.cores}
  clock_rate_ghz: {card.clock_ghz}
  device_memory_size: {card.memory_bytes}
  memory_bandwidth: {card.hbm_bandwidth:.0f}
  l2_cache_size: {card.l2_bytes}
  threads_per_warp: 32
  threads_per_block_limit: 1024
  threads_per_core_limit: {card.threads}
  shared_memory_per_block: {48 * 1024}
  shared_memory_per_block_optin: {card.shared_bytes - 1024}
  shared_memory_per_core: {card.shared_bytes}
  registers_per_core_limit: 65536
  registers_per_block_limit: 65536
  thread_dim_limit_x: 1024
  thread_dim_limit_y: 1024
  thread_dim_limit_z: 64
  block_dim_limit_x: 2147483647
  block_dim_limit_y: 65535
  block_dim_limit_z: 65535
  device_address_bits: 64
  pcie_bandwidth: {32 * 2**30}
  ecc_enabled: true
  driver_version: "13.0.0"
  runtime_version: "13.0.0"
  compile_time_toolkit_version: "13.0.0"
  dnn_version: "{".".join(map(str, CUDNN))}"
  cub_version: "3.1.2"
}}
platform_name: "CUDA"
dnn_version_info {{ major: {CUDNN[0]} minor: {CUDNN[1]} patch: {CUDNN[2]} }}
device_description_str: "{card.title}"
"""


CUDNN = (9, 12, 0)
"""The version of cuDNN that programs are compiled for."""
