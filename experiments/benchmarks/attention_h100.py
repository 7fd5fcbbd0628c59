"""Bytes of every implementation of relative attention at the paper's shapes, counted for an H100 without using one.

    python -m experiments.benchmarks.attention_h100      (ten minutes of a CPU core; needs `aa_flax[plan_gpu]`)

The input is queries, keys and values side by side, as a projection writes them; the output is the heads' outputs side
by side. Counted are forward, and forward with all gradients, in bfloat16. Two maps beyond those of `cases.py`, 5×11 (an
odd number of positions, as 7×7) and 4×4, show where fused attention no longer saves bytes. Bytes are operands and
results of every kernel of the compiled program. Nothing runs, so nothing is timed. Writes
experiments/results/attention_h100.json.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from aa_flax.analysis import count, gpu_compiler
from aa_flax.ops.multi_head_attention import attention_of_projected
from experiments.benchmarks import results
from experiments.benchmarks.candidates import reason, with_gradients
from experiments.benchmarks.cases import CASES, HEADS, KEY_DEPTH, Case

TARGET = "h100:1"
IMPLEMENTATIONS = ("paper", "folded", "cudnn", "pallas_gpu")
MORE = (
    Case("none", 5, 11, 256, 3, cpu_batch=16, gpu_batch=256),
    Case("none", 4, 4, 256, 8, cpu_batch=16, gpu_batch=256),
)


def main() -> None:
    """Count every shape and implementation, and store the counts."""
    parser = results.flags(__doc__, "attention_h100.json")
    parser.add_argument("--maps", nargs="*", help="such as 14x14; all if left out")
    arguments = parser.parse_args()
    gpu_compiler.prepare()  # without the compiler no row could be counted
    columns = f"{'forward GB':>11} {'+gradients':>11} {'kernels':>8} {'temp MB':>9}"
    print(f"{'map':>7} {'dv':>3} {'batch':>5}  {'':<12} {columns}")
    rows = [
        row(case, name)
        for case in (*CASES, *MORE)
        if not arguments.maps or case.map in arguments.maps
        for name in IMPLEMENTATIONS
    ]
    setting = {"dtype": "bfloat16", "heads": HEADS, "key_depth_per_head": KEY_DEPTH}
    results.store({**results.origin("attention_h100", target=TARGET), **setting, "rows": rows}, arguments.output)


def row(case: Case, name: str) -> dict[str, Any]:
    """Return what is counted of the compiled programs of one implementation and shape, or why it is not."""
    b, h, w, value_depth = case.gpu_batch, case.height, case.width, HEADS * case.value_depth
    shapes = [(b, h, w, 2 * HEADS * KEY_DEPTH + value_depth), (2 * h - 1, KEY_DEPTH), (2 * w - 1, KEY_DEPTH)]
    inputs = [jax.ShapeDtypeStruct(shape, jnp.bfloat16) for shape in shapes]
    options: dict[str, Any] = dict(num_heads=HEADS, value_depth=value_depth, implementation=name)
    function = functools.partial(attention_of_projected, **options)
    found: dict[str, Any] = {"map": case.map, "value_depth": case.value_depth, "batch": b, "implementation": name}
    place = f"{case.map:>7} {case.value_depth:>3} {b:>5}  {name:<12}"
    try:
        cotangent = jax.ShapeDtypeStruct((b, h, w, value_depth), jnp.bfloat16)
        found["forward"] = counted(function, *inputs)
        found["forward_backward"] = counted(with_gradients(function, range(3)), cotangent, *inputs)
    except (RuntimeError, TypeError, ValueError) as error:  # an implementation that does not serve this call says so
        found["not_counted"] = reason(error)
        print(f"{place} {found['not_counted']}", flush=True)
        return found
    forward, both = found["forward"], found["forward_backward"]
    print(
        f"{place} {forward['bytes_moved'] / 1e9:>11.3f} {both['bytes_moved'] / 1e9:>11.3f} {both['kernels']:>8} "
        f"{both['temporary_bytes'] / 1e6:>9.0f}",
        flush=True,
    )
    return found


def counted(function: Callable[..., Any], *inputs: Any) -> dict[str, int | None]:
    """Return bytes moved, kernels that run, and memory besides arguments and results."""
    found = count(TARGET, function, *inputs)
    counts = found.counts
    return {"bytes_moved": counts.bytes_moved, "kernels": counts.calls, "temporary_bytes": found.temporary_bytes}


if __name__ == "__main__":
    main()
