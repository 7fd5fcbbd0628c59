"""The longest kernels of one training step of an augmented network."""

import dataclasses
from typing import Any

from experiments.benchmarks.gpu import kernels
from experiments.benchmarks.gpu.settings import Setting
from experiments.benchmarks.gpu.steps import groups, prepared

_STEPS = 3
_SHOWN = 20


def run(setting: Setting) -> None:
    """Trace some steps of AA-ResNet-50 with "auto"; the cache has its program from the part "steps"."""
    group = groups(setting.rehearse)[0]
    entry = next(entry for entry in group.entries if entry.implementation == "auto")
    result = setting.record("profile.json", label=entry.label, batch=group.batch, dtype="bfloat16", steps=_STEPS)
    found = prepared(entry, group, "bfloat16")
    running = found.running(found.lower_train().compile())
    running(3)
    with kernels.traced() as trace:
        running(_STEPS)
    result.put(**of_trace(trace, _STEPS))
    for row in result.get("kernels"):
        print(f"{row['milliseconds']:>9.4f} ms {row['calls']:>5}  {row['name'][:100]}")


def of_trace(trace: kernels.Trace, runs: int) -> dict[str, Any]:
    """Return milliseconds and calls of one run, for all kernels together and for the longest."""
    total = sum(kernel.milliseconds for kernel in trace.kernels)
    rows = [dataclasses.asdict(kernel) for kernel in trace.longest(_SHOWN)]
    for row in rows:
        row["share"] = round(row["milliseconds"] / total, 4)
        row["milliseconds"] = round(row["milliseconds"] / runs, 5)
        row["calls"] = row["calls"] / runs
        row["source"] = row["source"][:200]
    return {
        "device_ms_per_step": round(total / runs, 4),
        "kernels_per_step": sum(kernel.calls for kernel in trace.kernels) / runs,
        "kernels": rows,
    }
