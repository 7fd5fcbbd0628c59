"""What a training step or forward pass needs of a TPU chip, by compiling it for a slice that need not be there.

All numbers are the compiler's counts, or sums over the compiled text, for one call of the program on one chip. Nothing
is timed: the bound on the step time is the largest of three quotients of a count and a published peak figure, and real
steps take longer.
"""

import dataclasses
import math
import time
from dataclasses import dataclass
from typing import Any

from jax.sharding import Mesh

from aa_flax.analysis import tpu_compiler
from aa_flax.analysis.hlo import Program
from aa_flax.analysis.hlo_traffic import Collective, Kernel, collectives, kernels
from aa_flax.analysis.hlo_work import work
from aa_flax.analysis.programs import Lowered, Mode, Subject, lower
from aa_flax.analysis.slices import Chip, Slice
from aa_flax.training.config import ConfigError


@dataclass(frozen=True)
class Memory:
    """Bytes in a chip's memory while the program runs, padding included; None where the compiler gives up."""

    arguments: int | None = None
    outputs: int | None = None
    aliased: int | None = None  # outputs that lie where arguments lay
    temporary: int | None = None
    program: int | None = None
    total: int | None = None


@dataclass(frozen=True)
class Bound:
    """No step can take less than `seconds`, which is the largest of the three others."""

    compute_seconds: float
    memory_seconds: float
    interconnect_seconds: float
    images_per_second: float  # of all chips, at most

    @property
    def seconds(self) -> float:
        """Least time of a step."""
        return max(self.compute_seconds, self.memory_seconds, self.interconnect_seconds)

    @property
    def by(self) -> str:
        """What sets it: "compute", "memory" or "interconnect"."""
        parts = {
            "compute": self.compute_seconds,
            "memory": self.memory_seconds,
            "interconnect": self.interconnect_seconds,
        }
        return max(parts, key=lambda name: parts[name])


@dataclass(frozen=True)
class Counts:
    """What one call of the program does on one chip.

    `flops` and `bytes_moved` are the compiler's counts with two corrections: it takes the body of a loop once, here it
    counts as often as it runs; and for the bytes of a Pallas kernel it takes the word of the kernel's author, here its
    operands and results count as they lie in memory. FLOPs of kernels stay their authors'.
    """

    flops: int
    kernel_flops: int  # of these, in Pallas kernels
    bytes_moved: int  # between cores, the memory beside them and HBM, by every instruction
    hbm_bytes: int  # from and to HBM, summed over the text
    bytes_by_compiler: int  # as it says
    kernels: list[Kernel]
    collectives: list[Collective]
    loops: list[int | None]  # how often each loop runs, None if unknown: such a body counts once

    @property
    def collective_bytes(self) -> int:
        """Of all collectives together."""
        return sum(collective.bytes for collective in self.collectives)

    @property
    def sent_bytes(self) -> int:
        """What the chip sends at least."""
        return sum(collective.sent_bytes for collective in self.collectives)


@dataclass(frozen=True)
class Plan:
    """One program on one slice, per chip; `counts` and `bound` are None where the compiler gives up."""

    subject: Subject
    mode: Mode
    slice: Slice
    devices_per_chip: int
    params_bytes: int
    batch_stats_bytes: int
    optimizer_bytes: int
    ema_bytes: int
    memory: Memory
    fits: bool
    counts: Counts | None
    bound: Bound | None
    compile_seconds: float
    hlo: str = dataclasses.field(repr=False, default="")

    @property
    def batch(self) -> int:
        """Images in a call, of all chips together."""
        return self.subject.config.batch_size


def batch_unit(subject: Subject, mode: Mode, mesh: Mesh) -> int:
    """What a batch must be a multiple of, so that every device gets as many images of each accumulation step."""
    return mesh.devices.size * (subject.config.optimizer.accumulation_steps if mode == "train" else 1)


def check_batch(subject: Subject, mode: Mode, wanted: Slice, mesh: Mesh) -> None:
    """ConfigError unless the batch divides by `batch_unit`."""
    batch, unit, devices = subject.config.batch_size, batch_unit(subject, mode, mesh), mesh.devices.size
    if batch < 1:
        raise ConfigError(f"batch must be at least 1, got {batch}")
    if batch % unit:
        steps = f" times {unit // devices} accumulation steps" if unit > devices else ""
        raise ConfigError(
            f"batch must divide by the {devices} devices of {wanted.topology}{steps}: {batch} does not, "
            f"{max(round(batch / unit), 1) * unit} does"
        )


def plan(subject: Subject, mode: Mode, wanted: Slice, mesh: Mesh) -> Plan:
    """Compile and count.

    Args:
        subject: from `programs.of_model` or `programs.of_config`, with its batch.
        mode: "train", the whole optimiser step, or "infer", the logits.
        wanted: the slice.
        mesh: its devices, `tpu_compiler.mesh_of(wanted)`.

    Raises:
        ConfigError: a batch that does not divide by the devices, or a network that cannot be built.
    """
    check_batch(subject, mode, wanted, mesh)
    started = time.monotonic()
    lowered = lower(subject, mode, mesh)
    per_chip = tpu_compiler.devices_per_chip(mesh)
    hlo, counts, bound = "", None, None
    try:
        compiled = tpu_compiler.compile_program(lowered.program)
    except tpu_compiler.DoesNotFit as verdict:
        needed = verdict.temporary_bytes
        memory, fits = Memory(temporary=needed * per_chip if needed else None), False
    else:
        hlo = compiled.as_text()
        memory = _memory(compiled, per_chip)
        fits = memory.total is not None and memory.total <= wanted.chip.usable_bytes
        counts = count_program(compiled, Program(hlo), mesh.devices.size, per_chip)
        bound = _bound(counts, wanted.chip, subject.config.batch_size)
    return Plan(
        subject=subject,
        mode=mode,
        slice=wanted,
        devices_per_chip=per_chip,
        **_state_bytes(lowered, per_chip),
        memory=memory,
        fits=fits,
        counts=counts,
        bound=bound,
        compile_seconds=time.monotonic() - started,
        hlo=hlo,
    )


def _state_bytes(lowered: Lowered, per_chip: int) -> dict[str, int]:
    return {
        name: per_chip * getattr(lowered, name)
        for name in ("params_bytes", "batch_stats_bytes", "optimizer_bytes", "ema_bytes")
    }


def _memory(compiled: Any, per_chip: int) -> Memory:
    found = compiled.memory_analysis()
    arguments, outputs, aliased, temporary, program = (
        per_chip * getattr(found, f"{name}_size_in_bytes")
        for name in ("argument", "output", "alias", "temp", "generated_code")
    )
    total = arguments + outputs - aliased + temporary + program
    return Memory(arguments, outputs, aliased, temporary, program, total)


def count_program(compiled: Any, program: Program, devices: int, per_chip: int) -> Counts:
    """What one chip does in a compiled program: the compiler's counts, with kernels and loops counted again.

    Args:
        compiled: as `jax.stages.Lowered.compile` returns it.
        program: its text.
        devices: that it runs on.
        per_chip: of them.
    """
    cost = compiled.cost_analysis()
    by_compiler = round(cost.get("bytes accessed", 0))
    once, looped = work(program, loops=False), work(program)
    kernels_once, kernels_looped = kernels(program, loops=False), kernels(program)
    flops = _grown(
        round(cost.get("flops", 0)) - _total(kernels_once, "estimated_flops"), once.products, looped.products
    ) + _total(kernels_looped, "estimated_flops")
    moved = _grown(
        by_compiler - _total(kernels_once, "estimated_bytes"),
        once.all_bytes - _total(kernels_once, "bytes"),
        looped.all_bytes - _total(kernels_looped, "bytes"),
    ) + _total(kernels_looped, "bytes")
    return Counts(
        flops=per_chip * flops,
        kernel_flops=per_chip * _total(kernels_looped, "estimated_flops"),
        bytes_moved=per_chip * moved,
        hbm_bytes=per_chip * looped.hbm_bytes,
        bytes_by_compiler=per_chip * by_compiler,
        kernels=[_times(kernel, per_chip) for kernel in kernels_looped],
        collectives=[_times(collective, per_chip) for collective in collectives(program, devices)],
        loops=[program.trips(s.instruction) for s in program.sites(loops=False) if s.instruction.opcode == "while"],
    )


def _total(records: list[Kernel], name: str) -> int:
    return sum(getattr(record, name) for record in records)


def _grown(count: int, once: int, looped: int) -> int:
    """A count of the compiler with loops as often as they run: it grows as our own sum does, exactly if none runs."""
    return round(count * looped / once) if once and looped != once else count


def _times(counted: Any, per_chip: int) -> Any:
    """A record of one device as one of a chip: every number in it, so many times."""
    numbers = {name: value for name, value in dataclasses.asdict(counted).items() if isinstance(value, int)}
    return dataclasses.replace(counted, **{name: per_chip * value for name, value in numbers.items()})


def _bound(counts: Counts, chip: Chip, batch: int) -> Bound:
    quotients = (
        counts.flops / chip.flops,
        counts.hbm_bytes / chip.hbm_bandwidth,
        counts.sent_bytes / chip.ici_bandwidth,
    )
    return Bound(*quotients, images_per_second=batch / max(max(quotients), math.ulp(0)))
