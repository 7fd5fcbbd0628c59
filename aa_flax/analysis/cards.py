"""NVIDIA GPUs by name: their peak figures, and their descriptions for XLA's compiler.

Sources. Peaks, bandwidths and nominal memory: the card's data sheet, which `source` links to. Multiprocessors, clock
and L2: the white papers "NVIDIA A100 Tensor Core GPU Architecture", "NVIDIA H100 Tensor Core GPU Architecture" and
"NVIDIA ADA GPU Architecture". Resources of a multiprocessor: the table of technical specifications per compute
capability in NVIDIA's CUDA C++ programming guide. Memory as CUDA reports it: XLA's public descriptions (openxla/xla,
folder xla/backends/gpu/target_config/specs); for the L4 it is what `nvidia-smi` prints, 23,034 MiB.
"""

import os
import re
from dataclasses import dataclass

from aa_flax.analysis.compiler import TargetError

CUDNN = (9, 12, 0)
"""The version of cuDNN that programs are compiled for: the oldest that JAX's wheels for CUDA 13 accept."""

_LARGEST = 8
"""The most cards that a machine has."""


@dataclass(frozen=True)
class Card:
    """Published figures of one card; `peaks` are without sparsity, half of what data sheets print with it.

    Operations per second are those of the tensor cores, and in float32 those of the ordinary cores. Where a data sheet
    rounds, the higher figure is used, so that bounds on the step time remain bounds.
    """

    name: str
    title: str  # CUDA's name of the card
    capability: tuple[int, int]  # compute capability
    multiprocessors: int
    cores: int  # that multiply and add in float32, in each multiprocessor
    clock_ghz: float
    threads: int  # resident on each multiprocessor, at most
    shared_bytes: int  # shared memory of each multiprocessor
    l2_bytes: int
    memory_bytes: int  # as CUDA reports it
    memory_kind: str
    hbm_bandwidth: float  # bytes per second from and to memory
    link_bandwidth: float  # bytes per second to other cards: half of what is published for both directions
    peaks: dict[str, float]  # operations per second by the type that is multiplied
    source: str

    @property
    def usable_bytes(self) -> int:
        """Return the bytes that JAX takes for arrays: XLA_PYTHON_CLIENT_MEM_FRACTION of all, by default 0.75."""
        return round(float(os.environ.get("XLA_PYTHON_CLIENT_MEM_FRACTION", "0.75")) * self.memory_bytes)

    @property
    def share(self) -> str:
        """Return what `usable_bytes` are, in words that follow their number."""
        return f"that JAX takes of a card of {self.memory_bytes / 1e9:.2f} GB (XLA_PYTHON_CLIENT_MEM_FRACTION)"


_MIB = 2**20
_NVIDIA = "https://www.nvidia.com/en-us/data-center"
_HOPPER = {"bfloat16": 989.5e12, "tf32": 494.7e12, "float32": 67e12, "float64": 67e12}
_AMPERE = {"bfloat16": 312e12, "tf32": 156e12, "float32": 19.5e12, "float64": 19.5e12}
_ADA = {"bfloat16": 121e12, "tf32": 60e12, "float32": 30.3e12, "float64": 0.5e12}

# fmt: off
CARDS = {
    card.name: card
    for card in (
        Card("h100", "NVIDIA H100 80GB HBM3", (9, 0), 132, 128, 1.98, 2048, 228 * 1024, 50 * _MIB, 84_942_979_072,
             "HBM3", 3.352e12, 450e9, _HOPPER, f"{_NVIDIA}/h100"),
        Card("h200", "NVIDIA H200", (9, 0), 132, 128, 1.98, 2048, 228 * 1024, 50 * _MIB, 151_397_597_184,
             "HBM3e", 4.8e12, 450e9, _HOPPER, f"{_NVIDIA}/h200"),
        Card("a100", "NVIDIA A100-SXM4-80GB", (8, 0), 108, 64, 1.41, 2048, 164 * 1024, 40 * _MIB, 85_100_068_864,
             "HBM2e", 2.039e12, 300e9, _AMPERE, f"{_NVIDIA}/a100"),
        Card("l4", "NVIDIA L4", (8, 9), 58, 128, 2.04, 1536, 100 * 1024, 48 * _MIB, 23_034 * _MIB,
             "GDDR6", 300e9, 32e9, _ADA, f"{_NVIDIA}/l4"),
    )
}
# fmt: on


@dataclass(frozen=True)
class Machine:
    """Cards of one kind in one machine, such as h100:8."""

    chip: Card
    chips: int
    cloud_name: str | None = None  # None: clouds rent such machines under many names

    @property
    def topology(self) -> str:
        """The name of the card and the number of cards."""
        return f"{self.chip.name}:{self.chips}"


def find_machine(name: str) -> Machine:
    """Return the machine of a name such as `h100:8`.

    Raises:
        TargetError: the card is unknown, or no machine has that number of cards.
    """
    card, _, count = name.partition(":")
    if card not in CARDS:
        raise TargetError(f"topology {name!r} must be of one of {', '.join(CARDS)}, such as h100:1 or h100:8")
    if not re.fullmatch(rf"[1-{_LARGEST}]", count):
        raise TargetError(
            f"topology {name!r} must say how many cards of one machine, 1 to {_LARGEST}, such as {card}:1 or {card}:8"
        )
    return Machine(CARDS[card], int(count))


def target_config(card: Card) -> str:
    """Return the description of a card for XLA's compiler: a `GpuTargetConfigProto` as text."""
    major, minor = card.capability
    features = "ACCELERATED_FEATURES" if major >= 9 else "NONE"  # sm_90a and later: wgmma, tensor memory access
    return f"""\
gpu_device_info {{
  name: "{card.title}"
  device_vendor: "NVIDIA Corporation"
  cuda_compute_capability {{ major: {major} minor: {minor} feature_extension: {features} }}
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
