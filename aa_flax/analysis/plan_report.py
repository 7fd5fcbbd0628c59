"""Reports of a plan: a table for people, JSON for programs."""

import dataclasses
import datetime
import platform
from collections.abc import Callable, Sequence
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from aa_flax.analysis.hlo import Program
from aa_flax.analysis.hlo_work import Launch, work
from aa_flax.analysis.plan import Plan
from aa_flax.analysis.provenance import package_version
from aa_flax.analysis.targets import compiler_of

_RATIOS = (
    "params_bytes",
    "optimizer_bytes",
    "temp_bytes",
    "flops",
    "bytes_moved",
    "hbm_bytes",
    "kernel_calls",
    "collective_bytes",
    "bound_seconds",
)

LARGEST = 10
"""How many kernels a report names."""


def as_json(
    plan: Plan, baseline: Plan | None = None, tried: Sequence[Plan] = (), command: str = "", scope: str = ""
) -> dict[str, Any]:
    """Return one JSON object: numbers of one chip at the top, null if the program does not fit; details nested.

    Args:
        plan: the plan that was asked for.
        baseline: the plan that it is compared with.
        tried: all plans of a sweep.
        command: the command that made the plan.
        scope: a part of the program to be counted by itself, as `hlo_work.work` takes it; "" for none.
    """
    result = {
        **_numbers(plan),
        "kernels": [dataclasses.asdict(each) for each in plan.counts.kernels] if plan.counts else None,
        "collectives": [dataclasses.asdict(each) for each in plan.counts.collectives] if plan.counts else None,
        "largest_kernels": [dataclasses.asdict(each) for each in _largest(plan)] if plan.counts else None,
        "loops": plan.counts and plan.counts.loops,
        "chip": dataclasses.asdict(plan.target.chip),
    }
    if scope:
        result["scope"] = {"name": scope, **_part(plan, scope)} if plan.counts else None
    if baseline:
        other = _numbers(baseline)
        result["baseline"] = other
        result["ratios"] = {
            name: result[name] / other[name] if result[name] is not None and other[name] else None for name in _RATIOS
        }
    if tried:
        fitting = [attempt.batch for attempt in tried if attempt.fits]
        result["sweep"] = {
            "largest_batch": max(fitting, default=None),
            "attempts": [
                {"batch": attempt.batch, "fits": attempt.fits, "total_bytes": attempt.memory.total} for attempt in tried
            ],
        }
    return {
        **result,
        "command": command,
        "date": datetime.date.today().isoformat(),
        "versions": {
            "python": platform.python_version(),
            **{name: package_version(name) for name in ("jax", "jaxlib", *compiler_of(plan.target).packages(), "flax")},
        },
    }


def _part(plan: Plan, scope: str) -> dict[str, int]:
    """Return what a part of a program moves and multiplies on a chip, and the whole of which it is a share."""
    program, per_chip = Program(plan.hlo), plan.devices_per_chip
    part, whole = work(program, scope=scope), work(program)
    return {
        "bytes": per_chip * part.all_bytes,
        "hbm_bytes": per_chip * part.hbm_bytes,
        "flops": per_chip * part.products,
        "of_bytes": per_chip * whole.all_bytes,
        "of_hbm_bytes": per_chip * whole.hbm_bytes,
        "of_flops": per_chip * whole.products,
    }


def _numbers(plan: Plan) -> dict[str, Any]:
    config, counts, bound, memory = plan.subject.config, plan.counts, plan.bound, plan.memory
    return {
        "model": config.model.name,
        "options": config.model.options,
        "mode": plan.mode,
        "topology": plan.target.topology,
        "cloud_name": plan.target.cloud_name,
        "chips": plan.target.chips,
        "devices_per_chip": plan.devices_per_chip,
        "batch": plan.batch,
        "image_size": plan.subject.image_size(plan.mode),
        "dtype": config.model.dtype,
        "optimizer": config.optimizer.name if plan.mode == "train" else None,
        "fits": plan.fits,
        "params_bytes": plan.params_bytes,
        "optimizer_bytes": plan.optimizer_bytes,
        "batch_stats_bytes": plan.batch_stats_bytes,
        "ema_bytes": plan.ema_bytes,
        "temp_bytes": memory.temporary,
        "total_bytes": memory.total,
        "memory": dataclasses.asdict(memory),
        "flops": counts and counts.flops,
        "flops_by_precision": counts and counts.flops_by_precision,
        "kernel_flops": counts and counts.kernel_flops,
        "bytes_moved": counts and counts.bytes_moved,
        "hbm_bytes": counts and counts.hbm_bytes,
        "whole_operand_bytes": counts and counts.whole_bytes,
        "bytes_by_compiler": counts and counts.bytes_by_compiler,
        "kernel_calls": counts and counts.calls,
        "collective_bytes": counts and counts.collective_bytes,
        "bound_seconds": bound and bound.seconds,
        "bound_by": bound and bound.by,
        "bound": bound and dataclasses.asdict(bound),
        "images_per_second": bound and bound.images_per_second,
        "images_per_second_per_chip": bound and bound.images_per_second / plan.target.chips,
        "compile_seconds": round(plan.compile_seconds, 1),
    }


def print_plan(plan: Plan, baseline: Plan | None = None, tried: Sequence[Plan] = ()) -> None:
    """Print a plan as a table, with a column for the baseline and one of ratios; plans of a sweep first."""
    console = Console(highlight=False, soft_wrap=True)
    for attempt in tried:
        console.print(f"batch {attempt.batch:,}: {_verdict(attempt)}")
    console.print(_title(plan))
    table = Table("per chip", box=None, pad_edge=False)
    for shown in (plan, baseline):
        if shown:
            table.add_column(shown.subject.config.model.name, justify="right")
    if baseline:
        table.add_column("ratio", justify="right")
    for label, number, write in _rows(plan, baseline):
        values = [number(shown) for shown in (plan, baseline) if shown]
        cells = ["-" if value is None else write(value) for value in values]
        if baseline:
            ours, theirs = values
            cells.append(f"{ours / theirs:.2f}" if ours is not None and theirs else "")
        table.add_row(label, *cells)
    console.print(table)
    for shown in (plan, baseline):
        if shown:
            console.print(f"{shown.subject.config.model.name}: {_verdict(shown)}")
            if shown.counts and None in shown.counts.loops:
                console.print(f"  {shown.counts.loops.count(None)} loops of unknown length count once")
    for shown in (plan, baseline):
        if shown and shown.counts and shown.counts.launches:
            console.print(_kernel_table(shown))
    console.print(_footnotes(plan))


def _largest(plan: Plan) -> list[Launch]:
    return plan.counts.launches[:LARGEST] if plan.counts else []


def _kernel_table(plan: Plan) -> Table:
    table = Table(f"largest kernels of {plan.subject.config.model.name}", box=None, pad_edge=False)
    table.add_column("calls", justify="right")
    table.add_column("bytes", justify="right")
    table.add_column("stems from")
    for each in _largest(plan):
        table.add_row(escape(each.name), f"{each.calls:,}", _gigabytes(each.bytes), escape(each.operation[-60:]))
    return table


Number = int | float
Row = tuple[str, Callable[[Plan], Number | None], Callable[[Number], str]]


def _rows(plan: Plan, baseline: Plan | None) -> list[Row]:
    def count(name: str) -> Callable[[Plan], Number | None]:
        return lambda shown: getattr(shown.counts, name) if shown.counts else None

    def bound(name: str) -> Callable[[Plan], Number | None]:
        return lambda shown: getattr(shown.bound, name) if shown.bound else None

    rows: list[Row] = [
        ("parameters", lambda shown: shown.params_bytes, _gigabytes),
        ("optimiser state", lambda shown: shown.optimizer_bytes, _gigabytes),
        ("temporary memory", lambda shown: shown.memory.temporary, _gigabytes),
        ("memory in all", lambda shown: shown.memory.total, _gigabytes),
        ("FLOPs", count("flops"), _tera),
    ]
    if any(shown and shown.counts and shown.counts.kernels for shown in (plan, baseline)):
        rows.append(("  in Pallas kernels, as their authors say", count("kernel_flops"), _tera))
    rows.append(("bytes moved", count("bytes_moved"), _gigabytes))
    memory = plan.target.chip.memory_kind
    if any(shown and shown.counts and shown.counts.bytes_by_compiler is not None for shown in (plan, baseline)):
        rows.append((f"  from and to {memory}", count("hbm_bytes"), _gigabytes))
    if plan.counts and plan.counts.launches:
        rows.append(("kernels that run", count("calls"), lambda value: f"{value:,}"))
    kinds = {
        each.kind: None for shown in (plan, baseline) if shown and shown.counts for each in shown.counts.collectives
    }
    rows += [(f"{kind}, {_calls(plan, kind)}", _collective(kind), _gigabytes) for kind in kinds]
    return [
        *rows,
        ("compute at the peak", bound("compute_seconds"), _milliseconds),
        (f"{memory} at the peak", bound("memory_seconds"), _milliseconds),
        ("links at the peak", bound("interconnect_seconds"), _milliseconds),
        ("step takes at least", bound("seconds"), _milliseconds),
        ("images/s of all chips, at most", bound("images_per_second"), lambda value: f"{value:,.0f}"),
    ]


def _collective(kind: str) -> Callable[[Plan], Number | None]:
    return lambda shown: sum(c.bytes for c in shown.counts.collectives if c.kind == kind) if shown.counts else None


def _calls(plan: Plan, kind: str) -> str:
    count = sum(each.calls for each in plan.counts.collectives if each.kind == kind) if plan.counts else 0
    return f"{count} call{'s' * (count != 1)}"


def _title(plan: Plan) -> str:
    height, width = plan.subject.image_size(plan.mode)
    what = "training step" if plan.mode == "train" else "inference"
    chips = f"{plan.target.chips} chip{'s' * (plan.target.chips > 1)}"
    where = f"{plan.target.cloud_name}, {chips}" if plan.target.cloud_name else chips
    return (
        f"{plan.subject.config.model.name}, {what}, {plan.target.topology} ({where}), "
        f"batch {plan.batch:,}, {height}×{width}, {plan.subject.config.model.dtype}"
    )


def _verdict(plan: Plan) -> str:
    capacity = f"the {_gigabytes(plan.target.chip.usable_bytes)} {plan.target.chip.share}"
    if plan.memory.total is None:
        needed = f": {_gigabytes(plan.memory.temporary)} of temporary memory" if plan.memory.temporary else ""
        return f"does not fit into {capacity}{needed}"
    verdict = "fits" if plan.fits else "does not fit"
    limits = {"memory": plan.target.chip.memory_kind, "interconnect": "the links between chips"}
    limit = f"; the bound is set by {limits.get(plan.bound.by, plan.bound.by)}" if plan.bound else ""
    return f"{verdict}, {_gigabytes(plan.memory.total)} of {capacity}{limit}"


def _footnotes(plan: Plan) -> str:
    chip, compiler = plan.target.chip, compiler_of(plan.target)
    versions = ", ".join(f"{name} {package_version(name)}" for name in ("jax", *compiler.packages()))
    peaks = ", ".join(f"{peak / 1e12:,.4g} TFLOP/s in {precision}" for precision, peak in chip.peaks.items())
    return (
        f"Counts of the compiled program ({versions}), nothing is timed. Peaks of a {chip.name} chip: {peaks}, "
        f"{chip.hbm_bandwidth / 1e9:,.0f} GB/s of memory, {chip.link_bandwidth / 1e9:.0f} GB/s out by its links "
        f"({chip.source}). {compiler.remarks()}"
    ).rstrip()


def _gigabytes(value: Number) -> str:
    if value < 1e6:
        return f"{value / 1e3:,.1f} kB"
    return f"{value / 1e9:,.2f} GB" if value >= 1e9 else f"{value / 1e6:,.1f} MB"


def _tera(value: Number) -> str:
    return f"{value / 1e12:,.2f} T" if value >= 1e11 else f"{value / 1e9:,.2f} G"


def _milliseconds(value: Number) -> str:
    return f"{1e3 * value:,.0f} ms" if value >= 0.1 else f"{1e3 * value:.3g} ms"
