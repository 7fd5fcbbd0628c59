"""Counts of what a compiled program does in one call on one chip: the compiler's if it gives any, else our own."""

import dataclasses
from dataclasses import dataclass
from typing import Any

from aa_flax.analysis.hlo import Program
from aa_flax.analysis.hlo_traffic import Collective, Kernel, collectives, kernels
from aa_flax.analysis.hlo_work import Launch, launches, work


@dataclass(frozen=True)
class Counts:
    """What one call of the program does on one chip.

    On TPUs `flops` and `bytes_moved` are the compiler's counts with three corrections. The compiler counts the body of
    a loop once; here it counts as often as it runs. Of the branches of a conditional the compiler counts the largest;
    here the smallest counts. For the bytes of a Pallas kernel the compiler uses the estimate of the kernel's author;
    here its operands and results count as they lie in memory. FLOPs of kernels are their authors' estimates. For GPUs
    the compiler gives no counts: bytes are the operands and results of all that runs, FLOPs are those of convolutions
    and matrix products, and for kernels the estimates of their authors.
    """

    flops: int
    kernel_flops: int  # the part of `flops` in Pallas kernels
    bytes_moved: int  # between cores, the memory beside them and HBM, by every instruction
    hbm_bytes: int  # from and to HBM, summed over the program's text
    bytes_by_compiler: int | None  # the compiler's own count, uncorrected
    kernels: list[Kernel]  # written in Pallas
    collectives: list[Collective]
    loops: list[int | None]  # how often each loop runs, None if unknown: such a body counts once
    launches: list[Launch] = dataclasses.field(default_factory=list)  # everything that runs, the most bytes first
    flops_by_precision: dict[str, int] = dataclasses.field(default_factory=dict)
    whole_bytes: int | None = None  # bytes moved if all operands and results counted whole

    @property
    def collective_bytes(self) -> int:
        """The bytes of all collectives together."""
        return sum(collective.bytes for collective in self.collectives)

    @property
    def sent_bytes(self) -> int:
        """The bytes that the chip sends at least."""
        return sum(collective.sent_bytes for collective in self.collectives)

    @property
    def calls(self) -> int:
        """The number of kernels that run, copies and collectives included."""
        return sum(launch.calls for launch in self.launches)


def count_program(compiled: Any, program: Program, devices: int, per_chip: int, estimated_flops: int = 0) -> Counts:
    """Return what one chip does in one call of a compiled program.

    Args:
        compiled: the program as `jax.stages.Lowered.compile` returns it.
        program: its text.
        devices: how many devices it runs on.
        per_chip: how many of these share a chip.
        estimated_flops: FLOPs in Pallas kernels on one device, as their authors estimate; on TPUs the text has them.
    """
    cost = compiled.cost_analysis()
    looped, kernels_looped = work(program), kernels(program)
    kernel_flops = _total(kernels_looped, "estimated_flops")
    if cost:
        flops, moved, by_compiler = _corrected(cost, program)
        by_precision = {"bfloat16": per_chip * flops}
    else:
        kernel_flops = kernel_flops or estimated_flops
        flops, moved, by_compiler = looped.products + kernel_flops, looped.all_bytes, None
        by_precision = {name: per_chip * count for name, count in looped.products_by_precision.items()}
        # The text does not say in which precision kernels multiply: the fastest keeps bounds valid.
        by_precision["bfloat16"] = by_precision.get("bfloat16", 0) + per_chip * kernel_flops
    return Counts(
        flops=per_chip * flops,
        kernel_flops=per_chip * kernel_flops,
        bytes_moved=per_chip * moved,
        hbm_bytes=per_chip * looped.hbm_bytes,
        bytes_by_compiler=None if by_compiler is None else per_chip * by_compiler,
        kernels=[_times(kernel, per_chip) for kernel in kernels_looped],
        collectives=[_times(collective, per_chip) for collective in collectives(program, devices)],
        loops=[program.trips(s.instruction) for s in program.sites(loops=False) if s.instruction.opcode == "while"],
        launches=[_times(launch, per_chip) for launch in launches(program)],
        flops_by_precision=by_precision,
        whole_bytes=per_chip * looped.whole_bytes,
    )


def _corrected(cost: dict[str, float], program: Program) -> tuple[int, int, int]:
    """Return the compiler's FLOPs and bytes, corrected for kernels, loops and branches, and its bytes uncorrected."""
    by_compiler = round(cost.get("bytes accessed", 0))
    once, looped = work(program, loops=False), work(program)
    passed_over = work(program, loops=False, largest=True).all_bytes - once.all_bytes
    kernels_once, kernels_looped = kernels(program, loops=False), kernels(program)
    flops = _grown(
        round(cost.get("flops", 0)) - _total(kernels_once, "estimated_flops"), once.products, looped.products
    ) + _total(kernels_looped, "estimated_flops")
    moved = _grown(
        by_compiler - passed_over - _total(kernels_once, "estimated_bytes"),
        once.all_bytes - _total(kernels_once, "bytes"),
        looped.all_bytes - _total(kernels_looped, "bytes"),
    ) + _total(kernels_looped, "bytes")
    return flops, moved, by_compiler


def _total(records: list[Kernel], name: str) -> int:
    return sum(getattr(record, name) for record in records)


def _grown(count: int, once: int, looped: int) -> int:
    """Return a count of the compiler, scaled as our own sum grows when loops count as often as they run.

    Without loops the count is unchanged.
    """
    return round(count * looped / once) if once and looped != once else count


def _times(counted: Any, per_chip: int) -> Any:
    """Return a record of one device as one of a chip, with every number multiplied by `per_chip`."""
    numbers = {name: value for name, value in dataclasses.asdict(counted).items() if isinstance(value, int)}
    return dataclasses.replace(counted, **{name: per_chip * value for name, value in numbers.items()})
