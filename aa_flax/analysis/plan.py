"""Plans: what a step or forward pass needs of a TPU chip or GPU, compiled for devices that need not be present.

All numbers are the compiler's counts, or sums over the compiled text, for one call of the program on one chip; a GPU
card is a chip here. Nothing is timed: the bound on the step time is the largest of three quotients of a count and a
published peak figure, and real steps take longer.
"""

import dataclasses
import math
import time
from dataclasses import dataclass
from typing import Any

from jax.sharding import Mesh

from aa_flax.analysis.cards import Card
from aa_flax.analysis.compiler import DoesNotFit
from aa_flax.analysis.counts import Counts, count_program
from aa_flax.analysis.hlo import Program
from aa_flax.analysis.programs import Lowered, Mode, Subject, lower
from aa_flax.analysis.slices import Chip
from aa_flax.analysis.targets import Target, compiler_of
from aa_flax.config.schema import ConfigError


@dataclass(frozen=True)
class Memory:
    """Bytes in a chip's memory while the program runs, padding included; None if the compiler says it does not fit."""

    arguments: int | None = None
    outputs: int | None = None
    aliased: int | None = None  # outputs that reuse the memory of arguments
    temporary: int | None = None
    program: int | None = None
    total: int | None = None


@dataclass(frozen=True)
class Bound:
    """The least time that a step can take: `seconds`, the largest of the three others."""

    compute_seconds: float
    memory_seconds: float
    interconnect_seconds: float
    images_per_second: float  # of all chips, at most

    @property
    def seconds(self) -> float:
        """The least time of a step."""
        return max(self.compute_seconds, self.memory_seconds, self.interconnect_seconds)

    @property
    def by(self) -> str:
        """Return what sets the bound: "compute", "memory" or "interconnect"."""
        parts = {
            "compute": self.compute_seconds,
            "memory": self.memory_seconds,
            "interconnect": self.interconnect_seconds,
        }
        return max(parts, key=lambda name: parts[name])


@dataclass(frozen=True)
class Plan:
    """A program on a slice or machine, per chip; `counts` and `bound` are None if the compiler says it does not fit."""

    subject: Subject
    mode: Mode
    target: Target
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
        """The images in one call, of all chips together."""
        return self.subject.config.batch_size


def batch_unit(subject: Subject, mode: Mode, mesh: Mesh) -> int:
    """Return what a batch must be a multiple of, so that devices get equally many images of each accumulation step."""
    return mesh.devices.size * (subject.config.optimizer.accumulation_steps if mode == "train" else 1)


def check_batch(subject: Subject, mode: Mode, wanted: Target, mesh: Mesh) -> None:
    """Raise ConfigError unless the batch is a multiple of `batch_unit`."""
    batch, unit, devices = subject.config.batch_size, batch_unit(subject, mode, mesh), mesh.devices.size
    if batch < 1:
        raise ConfigError(f"batch must be at least 1, got {batch}")
    if batch % unit:
        steps = f" times {unit // devices} accumulation steps" if unit > devices else ""
        raise ConfigError(
            f"batch must divide by the {devices} devices of {wanted.topology}{steps}: {batch} does not, "
            f"{max(round(batch / unit), 1) * unit} does"
        )


def plan(subject: Subject, mode: Mode, wanted: Target, mesh: Mesh) -> Plan:
    """Compile a step or forward pass and return its plan.

    Args:
        subject: from `programs.of_model` or `programs.of_config`, with its batch set.
        mode: "train", the whole optimiser step, or "infer", the forward pass.
        wanted: the slice or machine.
        mesh: its devices, `compiler_of(wanted).mesh_of(wanted)`.

    Raises:
        ConfigError: the batch does not divide by the devices, or the network cannot be built.
    """
    check_batch(subject, mode, wanted, mesh)
    started = time.monotonic()
    compiler = compiler_of(wanted)
    with compiler.traced(wanted):
        lowered = lower(subject, mode, mesh)
    per_chip = compiler.devices_per_chip(mesh)
    hlo, counts, bound = "", None, None
    try:
        compiled = compiler.compile_program(lowered.program)
    except DoesNotFit as verdict:
        needed = verdict.temporary_bytes
        memory, fits = Memory(temporary=needed * per_chip if needed else None), False
    else:
        hlo = compiled.as_text()
        memory = _memory(compiled, per_chip)
        fits = memory.total is not None and memory.total <= wanted.chip.usable_bytes
        counts = count_program(compiled, Program(hlo), mesh.devices.size, per_chip, lowered.estimated_flops)
        bound = _bound(counts, wanted.chip, subject.config.batch_size)
    return Plan(
        subject=subject,
        mode=mode,
        target=wanted,
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


def _bound(counts: Counts, chip: Chip | Card, batch: int) -> Bound:
    quotients = (
        sum(
            flops / chip.peaks.get(precision, max(chip.peaks.values()))
            for precision, flops in counts.flops_by_precision.items()
        ),
        counts.hbm_bytes / chip.hbm_bandwidth,
        counts.sent_bytes / chip.link_bandwidth,
    )
    return Bound(*quotients, images_per_second=batch / max(max(quotients), math.ulp(0)))
