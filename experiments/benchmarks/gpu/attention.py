"""Relative attention at the shapes of the paper's networks: forward and with gradients, ours and the paper's algorithm.

Each program has two times: wall-clock time, where the programs of a shape take turns, and the time of its kernels
alone, from a trace. At 7×7 the host needs longer to start a program than the card to run it.
"""

import functools
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax.numpy as jnp

from aa_flax.ops import relative_attention_2d
from aa_flax.ops.choice import choose
from experiments.benchmarks import attention as shapes
from experiments.benchmarks import candidates, devices, timing
from experiments.benchmarks.candidates import PASSES, Candidate
from experiments.benchmarks.cases import CASES, HEADS, KEY_DEPTH, Case
from experiments.benchmarks.gpu import kernels, record
from experiments.benchmarks.gpu.checks import Verdicts
from experiments.benchmarks.gpu.correct import implementations
from experiments.benchmarks.gpu.settings import Setting

# Side of the map and value depth per head, the most important first.
ORDER = ((32, 2), (14, 3), (16, 4), (7, 6), (8, 8), (28, 1), (14, 1))
_TINY = Case("rehearsal", 4, 4, 16, 3, cpu_batch=1, gpu_batch=1)
_TRACED = 3  # runs of each program in a trace


def cases(rehearse: bool) -> list[Case]:
    """Return the cases in the order in which they are measured."""
    by_size = {(case.height, case.value_depth): case for case in CASES}
    return [_TINY] if rehearse else [by_size[size] for size in ORDER]


def run(setting: Setting) -> None:
    """Write the rows of one shape after the other while time is left."""
    dtype = "bfloat16"
    result = setting.record("attention.json", dtype=dtype, heads=HEADS, key_depth_per_head=KEY_DEPTH, rows=[])
    verdicts = Verdicts(record.read(setting.out / "correct.json"))
    for case in cases(setting.rehearse):
        if setting.left() < setting.pick(12.0, 0.0):
            result.add("not_measured", f"{case.map} dv{case.value_depth}: no time was left")
            continue
        for row in measure(case, dtype, verdicts, setting):
            result.add("rows", row)
            print(shown(row), flush=True)


def measure(case: Case, dtype: str, verdicts: Verdicts, setting: Setting) -> list[dict[str, Any]]:
    """Return a row for each implementation at one shape."""
    batch = case.gpu_batch
    operands = [jnp.asarray(array, dtype) for array in shapes.inputs(case, batch)]
    names = [name for name in implementations(setting.rehearse) if name != "auto"]
    objections = {name: verdicts.objection(name, case.map, dtype) for name in names}
    free = int(0.6 * devices.free_bytes())

    def candidate(name: str) -> Candidate:
        if reason := objections[name]:
            return Candidate.absent(reason)
        attend = functools.partial(relative_attention_2d, implementation=name)
        return candidates.jax_candidate(attend, operands, free_bytes=free)

    with ThreadPoolExecutor(len(names)) as pool:
        found = dict(zip(names, pool.map(candidate, names), strict=True))
    programs = candidates.programs_of(found)
    times = timing.take_turns(programs, rounds=8, seconds=min(10.0, max(1.0, setting.left() / 4)))
    on_device = device_times(programs, setting)
    auto = choose(dtype, case.height, case.width, HEADS, KEY_DEPTH, case.value_depth, True, batch=batch)
    rows = []
    for name, each in found.items():
        medians = {key: timing.median(times[name, key]) for key in each.programs}
        row = {
            "network": case.network,
            "map": case.map,
            "value_depth_per_head": case.value_depth,
            "batch": batch,
            "implementation": name,
            "is_auto": name == auto,
            **each.row(medians),
            **{f"{key}_extremes_ms": [round(f(times[name, key]), 3) for f in (min, max)] for key in each.programs},
            **{f"{key}_device_ms": on_device.get((name, key)) for key in PASSES},
        }
        rows.append(row | shapes.fractions(case, batch, dtype, medians))
    return rows


def device_times(programs: dict[tuple[str, str], timing.Program], setting: Setting) -> dict[tuple[str, str], float]:
    """Return milliseconds of the kernels of one run of each program; programs without a trace are missing."""
    times: dict[tuple[str, str], float] = {}
    for key, program in programs.items():
        if setting.left() < setting.pick(10.0, 0.0):
            break
        try:
            with kernels.traced() as trace:
                program(_TRACED)
        except Exception as error:  # the wall-clock times do not need it
            print(f"no trace of {key}: {candidates.reason(error)}", flush=True)
            break
        if trace.kernels:
            times[key] = round(sum(kernel.milliseconds for kernel in trace.kernels) / _TRACED, 4)
    return times


def shown(row: dict[str, Any]) -> str:
    """Return a row as a line of text."""
    place = f"{row['map']:>7} dv{row['value_depth_per_head']} b{row['batch']} {row['implementation']:<20}"
    if row["forward_ms"] is None:
        return f"{place} {row['not_measured']['forward']}"
    both = (f"{row[f'{key}_ms'] or float('nan'):.3f} ({row[f'{key}_device_ms']} on the device)" for key in PASSES)
    return f"{place} {' / '.join(both)} ms{' <- auto' if row['is_auto'] else ''}"
