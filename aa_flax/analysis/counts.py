"""What a compiled program does in one call on one chip: counts of the compiler where it gives any, else our own."""

import dataclasses
from dataclasses import dataclass
from typing import Any

from aa_flax.analysis.hlo import Program
from aa_flax.analysis.hlo_traffic import Collective, Kernel, collectives, kernels
from aa_flax.analysis.hlo_work import Launch, launches, work


@dataclass(frozen=True)
class Counts:
    """What one call of the program does on one chip.

    On TPUs `flops` and `bytes_moved` are the compiler's counts with three corrections: it takes the body of a loop
    once, here it counts as often as it runs; of the branches of a conditional it takes the largest, here the smallest
    counts; and for the bytes of a Pallas kernel it takes the word of the kernel's author, here its operands and results
    count as they lie in memory. FLOPs of kernels stay their authors'. For GPUs the compiler gives no counts: bytes are
    operands and results of all that runs, FLOPs those of convolutions and matrix products, and of kernels what their
    authors say.
    """

    flops: int
    kernel_flops: int  # of these, in Pallas kernels
    bytes_moved: int  # between cores, the memory beside them and HBM, by every instruction
    hbm_bytes: int  # from and to HBM, summed over the text
    bytes_by_compiler: int | None  # as it says
    kernels: list[Kernel]  # written in Pallas
    collectives: list[Collective]
    loops: list[int | None]  # how often each loop runs, None if unknown: such a body counts once
    launches: list[Launch] = dataclasses.field(default_factory=list)  # everything that runs, the most bytes first
    flops_by_precision: dict[str, int] = dataclasses.field(default_factory=dict)
    whole_bytes: int | None = None  # bytes moved if every operand and result counted whole, taken in part or not

    @property
    def collective_bytes(self) -> int:
        """Of all collectives together."""
        return sum(collective.bytes for collective in self.collectives)

    @property
    def sent_bytes(self) -> int:
        """What the chip sends at least."""
        return sum(collective.sent_bytes for collective in self.collectives)

    @property
    def calls(self) -> int:
        """How many kernels run, copies and collectives among them."""
        return sum(launch.calls for launch in self.launches)


def count_program(compiled: Any, program: Program, devices: int, per_chip: int, estimated_flops: int = 0) -> Counts:
    """What one chip does in a compiled program.

    Args:
        compiled: as `jax.stages.Lowered.compile` returns it.
        program: its text.
        devices: that it runs on.
        per_chip: of them.
        estimated_flops: in Pallas kernels, as their authors say, on a device; for TPUs the text has them.
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
        # In which precision kernels multiply the text does not say: a bound takes the fastest.
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
    """FLOPs and bytes of the compiler, with kernels, loops and branches counted again, and bytes as it says."""
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
    """A count of the compiler with loops as often as they run: it grows as our own sum does, exactly if none runs."""
    return round(count * looped / once) if once and looped != once else count


def _times(counted: Any, per_chip: int) -> Any:
    """A record of one device as one of a chip: every number in it, so many times."""
    numbers = {name: value for name, value in dataclasses.asdict(counted).items() if isinstance(value, int)}
    return dataclasses.replace(counted, **{name: per_chip * value for name, value in numbers.items()})
