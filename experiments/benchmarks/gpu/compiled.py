"""The programs of the parts, compiled for a GPU that is not present: failures show here first."""

import functools
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from aa_flax.analysis import count
from aa_flax.analysis.compiler import CompilerError, TargetError
from aa_flax.analysis.targets import find_target
from aa_flax.ops import relative_attention_2d
from experiments.benchmarks import attention as shapes
from experiments.benchmarks.candidates import is_refusal, reason, with_gradients
from experiments.benchmarks.gpu import correct, steps, trial
from experiments.benchmarks.gpu.attention import cases
from experiments.benchmarks.gpu.settings import Setting

Program = tuple[str, Callable[[], tuple[Any, ...]]]
"""A label, and a function that returns a function to compile and its arguments."""


def run(machine: str, out: Path, parts: Sequence[str], command: str, commit: str) -> int:
    """Compile all programs and write a row for each; return how many failed, those that refuse a call not counted."""
    try:
        find_target(machine)
    except TargetError as error:
        raise SystemExit(str(error)) from None
    if not set(parts) & set(_PROGRAMS):
        raise SystemExit(f"--compile is for the parts {', '.join(_PROGRAMS)}, got {', '.join(parts)}")
    out.mkdir(parents=True, exist_ok=True)
    (out / "compiled.json").unlink(missing_ok=True)
    jax.config.update("jax_platforms", "cpu")
    result = Setting(out, float("inf"), command, commit).record("compiled.json", machine=machine, rows=[])
    failed = 0
    for label, prepared in (program for part in parts if part in _PROGRAMS for program in _PROGRAMS[part]()):
        started, row = time.monotonic(), dict[str, Any](program=label)
        try:
            function, *arguments = prepared()
            row["temporary_bytes"] = count(machine, function, *arguments).temporary_bytes
        except CompilerError as error:
            raise SystemExit(str(error)) from None
        except Exception as error:
            refusal = is_refusal(error)
            row["refused" if refusal else "failed"] = reason(error)
            failed += not refusal
        row["seconds"] = round(time.monotonic() - started, 2)
        result.add("rows", row)
        print(row, flush=True)
    return failed


def _shapes(arrays: Sequence[Any], dtype: str, batch: int | None = None) -> list[jax.ShapeDtypeStruct]:
    """Return the shapes of arrays in another dtype; maps have another batch size, if it is given."""
    shapes = [(batch, *array.shape[1:]) if batch and array.ndim == 5 else array.shape for array in arrays]
    return [jax.ShapeDtypeStruct(shape, jnp.dtype(dtype)) for shape in shapes]


def _of_correct() -> Iterator[Program]:
    for name in correct.implementations(rehearse=False):
        for check in correct.all_checks(rehearse=False):

            def prepared(name: str = name, check: Any = check) -> tuple[Any, ...]:
                return trial.function(name, check.precision), *_shapes(check.inputs(), check.dtype)

            yield f"correct {name} {check.map} {check.dtype} {check.precision}", prepared


def _of_attention() -> Iterator[Program]:
    for case in cases(rehearse=False):
        for name in correct.implementations(rehearse=False)[:-1]:
            attend = functools.partial(relative_attention_2d, implementation=name)

            def forward(attend: Any = attend, case: Any = case) -> tuple[Any, ...]:
                return attend, *_shapes(shapes.inputs(case, 1), "bfloat16", case.gpu_batch)

            def both(attend: Any = attend, case: Any = case) -> tuple[Any, ...]:
                inputs = shapes.inputs(case, 1)
                return with_gradients(attend, range(5)), *_shapes([inputs[2], *inputs], "bfloat16", case.gpu_batch)

            yield f"attention {name} {case.map} dv{case.value_depth} forward", forward
            yield f"attention {name} {case.map} dv{case.value_depth} forward_backward", both


def _of_steps() -> Iterator[Program]:
    first, second, last = steps.groups(rehearse=False)
    for group, entries in ((first, first.entries), (second, second.entries), (last, last.entries[1:])):
        for entry in entries:

            def prepared(entry: Any = entry, group: Any = group) -> tuple[Any, ...]:
                found = steps.prepared(entry, group, "bfloat16")
                return found.train, found.state, found.batch

            yield f"steps {entry.label}", prepared


_PROGRAMS: dict[str, Callable[[], Iterator[Program]]] = {
    "correct": _of_correct,
    "attention": _of_attention,
    "steps": _of_steps,
}
