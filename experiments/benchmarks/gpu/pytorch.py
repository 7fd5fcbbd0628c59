"""PyTorch's attention functions beside ours: SDPA with a float bias, FlexAttention and the paper's algorithm."""

import jax.numpy as jnp

from experiments.benchmarks import agreement, candidates, devices, timing
from experiments.benchmarks import attention as shapes
from experiments.benchmarks.candidates import reason
from experiments.benchmarks.gpu import record
from experiments.benchmarks.gpu.attention import cases
from experiments.benchmarks.gpu.checks import Verdicts
from experiments.benchmarks.gpu.settings import Setting


def run(setting: Setting) -> None:
    """Write the rows of one shape after the other while time is left."""
    dtype = "bfloat16"
    result = setting.record("extra.json", "pytorch", dtype=dtype, rows=[])
    if not candidates.HAS_PYTORCH:
        result.put(not_measured="PyTorch is not installed")
        return
    device = candidates.pytorch_device()
    result.put(**candidates.settings(device))
    try:
        agreement.check_attention(device)
        result.put(agrees=True)
    except Exception as error:  # it is timed nevertheless, and the result says so
        result.put(agrees=reason(error))
    verdicts = Verdicts(record.read(setting.out / "correct.json"))
    for case in cases(setting.rehearse)[:4]:
        if setting.left() < setting.pick(15.0, 0.0):
            break
        arrays = shapes.inputs(case, case.gpu_batch)
        free = int(0.6 * devices.free_bytes())
        found = shapes.theirs(case, arrays, dtype, free)
        if verdicts.objection("auto", case.map, dtype) is None:
            operands = [jnp.asarray(array, dtype) for array in arrays]
            found = {"auto": candidates.jax_candidate(shapes.relative_attention_2d, operands, free_bytes=free)} | found
        times = timing.take_turns(
            candidates.programs_of(found), rounds=6, seconds=min(8.0, max(1.0, setting.left() / 4))
        )
        for name, each in found.items():
            medians = {key: timing.median(times[name, key]) for key in each.programs}
            row = {"map": case.map, "value_depth_per_head": case.value_depth, "batch": case.gpu_batch}
            result.add("rows", row | {"implementation": name} | each.row(medians))
            print(case.map, name, medians, each.not_measured, flush=True)
