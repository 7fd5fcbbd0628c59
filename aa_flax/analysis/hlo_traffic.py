"""Bytes that a compiled program moves through its Pallas kernels and between devices."""

import math
import re
from dataclasses import dataclass

from aa_flax.analysis.hlo import Instruction, Program, shape_bytes

PALLAS = ("tpu_custom_call", "__gpu$xla.gpu.triton", "mosaic_gpu_v2", "mosaic_gpu")
"""The targets of kernels written in Pallas. The compiler itself knows what other custom calls cost."""

_COLLECTIVES = (
    "all-gather",
    "all-reduce",
    "all-to-all",
    "collective-broadcast",
    "collective-permute",
    "ragged-all-to-all",
    "reduce-scatter",
)


@dataclass(frozen=True)
class Kernel:
    """All calls of one kernel, per device and run of the program.

    The compiler's own count uses the estimate of the kernel's author, once for each call in the text, and 0 where there
    is none.
    """

    name: str
    calls: int
    bytes: int  # of operands and results, in memory
    estimated_bytes: int
    estimated_flops: int
    without_estimate: int  # calls without an estimate


def kernels(program: Program, loops: bool = True) -> list[Kernel]:
    """Return the Pallas kernels of a program; bodies of loops count as often as they run, or once if not `loops`."""
    found: dict[str, list[tuple[Instruction, int, int]]] = {}
    for site in program.sites(loops):
        call = site.instruction
        if site.scheduled and call.custom_call_target in PALLAS:
            size = sum(map(shape_bytes, (call.shape, *program.operands(site))))
            found.setdefault(re.sub(r"[.\d]+$", "", call.name), []).append((call, site.times, size))
    return [
        Kernel(
            name=name,
            calls=sum(times for _, times, _ in calls),
            bytes=sum(times * size for _, times, size in calls),
            estimated_bytes=sum(times * call.cost_estimate.get("bytes_accessed", 0) for call, times, _ in calls),
            estimated_flops=sum(times * call.cost_estimate.get("flops", 0) for call, times, _ in calls),
            without_estimate=sum(times for call, times, _ in calls if not call.cost_estimate),
        )
        for name, calls in sorted(found.items())
    ]


@dataclass(frozen=True)
class Collective:
    """All collectives of one kind, per device and run of the program."""

    kind: str
    calls: int
    bytes: int  # of the whole array before or after each, whichever is larger
    sent_bytes: int  # what a device must send at least, with any algorithm


def collectives(program: Program, devices: int) -> list[Collective]:
    """Return the collectives of a program by kind.

    For an array of B bytes and groups of n devices each device sends at least 2 B (n - 1) / n in an all-reduce,
    B (n - 1) / n in an all-gather, reduce-scatter or all-to-all, and B in a permutation or broadcast.

    Args:
        program: a program compiled for `devices` devices.
        devices: the size of a group whose members the text does not name.
    """
    found: dict[str, list[tuple[int, int, float]]] = {}
    for site in program.sites():
        kind = site.instruction.opcode.removesuffix("-start")
        if kind not in _COLLECTIVES:
            continue
        group = _group_size(site.instruction, devices)
        size = sum(map(shape_bytes, program.operands(site))) * (group if kind == "all-gather" else 1)
        found.setdefault(kind, []).append((site.times, size, size * _sent_fraction(kind, group)))
    return [
        Collective(
            kind=kind,
            calls=sum(times for times, _, _ in entries),
            bytes=sum(times * size for times, size, _ in entries),
            sent_bytes=round(sum(times * sent for times, _, sent in entries)),
        )
        for kind, entries in sorted(found.items())
    ]


def _sent_fraction(kind: str, group: int) -> float:
    if kind in ("collective-broadcast", "collective-permute"):
        return 1.0
    others = (group - 1) / group
    return 2 * others if kind == "all-reduce" else others


def _group_size(instruction: Instruction, devices: int) -> int:
    """Return how many devices take part in a collective.

    There are three notations: the numbers, {{0,1},{2,3}}; the shape of their list, [2,2]<=[4]; axes of a mesh,
    mesh['a'=4,'b'=1] {'a'}.
    """
    if listed := instruction.attribute(r"replica_groups=\{\{([\d,]+)\}"):
        return len(listed.split(","))
    if shaped := instruction.attribute(r"replica_groups=\[([\d,]+)\]<="):
        return int(shaped.split(",")[-1])
    if mesh := re.search(r"replica_groups=mesh\[([^\]]*)\][^{]*\{([^}]*)\}", instruction.attributes):
        sizes = dict(re.findall(r"'(\w+)'=(\d+)", mesh[1]))
        return math.prod(int(sizes[axis]) for axis in re.findall(r"'(\w+)'", mesh[2]))
    return devices
