"""Bytes of every implementation of relative attention at the paper's shapes, counted for an H100 without one.

    python experiments/benchmarks/attention_h100.py          (about ten minutes of a CPU core; needs JAX's CUDA plugin)

From queries, keys and values side by side, as a projection writes them, to the heads' outputs side by side; forward,
and forward with all gradients; bfloat16. Two maps more than `cases.py` has, 5×11 (an odd number of places, as 7×7) and
4×4, tell where fused attention stops to pay. Bytes are operands and results of every kernel of the compiled program.
Nothing runs, so nothing is timed. Writes JSON to experiments/results/.
"""

import argparse
import functools
import json
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

_ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(_ROOT))  # the checkout need not be installed

from aa_flax.analysis import gpu_compiler  # noqa: E402
from aa_flax.analysis.compiling import compile_on  # noqa: E402
from aa_flax.analysis.counts import count_program  # noqa: E402
from aa_flax.analysis.hlo import Program  # noqa: E402
from aa_flax.analysis.provenance import provenance  # noqa: E402
from aa_flax.ops import packed_attention, relative_attention_2d  # noqa: E402
from aa_flax.ops.packed_attention import PACKED  # noqa: E402
from experiments.benchmarks.candidates import reason, with_gradients  # noqa: E402
from experiments.benchmarks.cases import CASES, HEADS, KEY_DEPTH, Case  # noqa: E402

RESULTS = _ROOT / "experiments" / "results"
IMPLEMENTATIONS = ("paper", "folded", "cudnn", "pallas_gpu")
MORE = (
    Case("none", 5, 11, 256, 3, cpu_batch=16, gpu_batch=256),
    Case("none", 4, 4, 256, 8, cpu_batch=16, gpu_batch=256),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--maps", nargs="*", help="such as 14x14; all if left out")
    parser.add_argument("--output", type=Path, default=RESULTS / "attention_h100.json")
    arguments = parser.parse_args()
    gpu_compiler.prepare()
    columns = f"{'forward GB':>11} {'+gradients':>11} {'kernels':>8} {'temp MB':>9}"
    print(f"{'map':>7} {'dv':>3} {'batch':>5}  {'':<12} {columns}")
    rows = [
        row(case, name)
        for case in (*CASES, *MORE)
        if not arguments.maps or case.map in arguments.maps
        for name in IMPLEMENTATIONS
    ]
    found = provenance("python experiments/benchmarks/attention_h100.py")
    found["versions"] |= {package: version(package) for package in gpu_compiler.packages()}
    setting = {
        "device": "one H100",
        "ran": "nothing: compiled by XLA on a CPU",
        "dtype": "bfloat16",
        "heads": HEADS,
        "key_depth_per_head": KEY_DEPTH,
    }
    arguments.output.write_text(json.dumps({**found, **setting, "rows": rows}, indent=1) + "\n")
    print(f"written to {arguments.output}")


def row(case: Case, name: str) -> dict[str, Any]:
    """What the compiled program of one implementation and shape reads and writes."""
    b, h, w = case.gpu_batch, case.height, case.width
    shapes = [(b, h, w, HEADS * (2 * KEY_DEPTH + case.value_depth)), (2 * h - 1, KEY_DEPTH), (2 * w - 1, KEY_DEPTH)]
    inputs = [jax.ShapeDtypeStruct(shape, jnp.bfloat16) for shape in shapes]
    function = functools.partial(attend, name, case.value_depth)
    found: dict[str, Any] = {"map": case.map, "value_depth": case.value_depth, "batch": b, "implementation": name}
    try:
        cotangent = jax.ShapeDtypeStruct((b, h, w, HEADS * case.value_depth), jnp.bfloat16)
        found["forward"] = count(function, *inputs)
        found["forward_backward"] = count(with_gradients(function, range(3)), cotangent, *inputs)
    except (RuntimeError, TypeError, ValueError) as error:  # an implementation that does not serve this call says so
        found["not_counted"] = reason(error)
        print(f"{case.map:>7} {case.value_depth:>3} {b:>5}  {name:<12} {found['not_counted']}", flush=True)
        return found
    forward, both = found["forward"], found["forward_backward"]
    print(
        f"{case.map:>7} {case.value_depth:>3} {b:>5}  {name:<12} {forward['bytes_moved'] / 1e9:>11.3f} "
        f"{both['bytes_moved'] / 1e9:>11.3f} {both['kernels']:>8} {both['temporary_bytes'] / 1e6:>9.0f}",
        flush=True,
    )
    return found


def attend(name: str, value_depth: int, qkv: jax.Array, *tables: jax.Array) -> jax.Array:
    """The heads' outputs side by side, as `AAConv2D` has them computed."""
    if name in PACKED:
        return packed_attention(qkv, *tables, num_heads=HEADS, value_depth=HEADS * value_depth, implementation=name)
    b, h, w, _ = qkv.shape
    parts = jnp.split(qkv, [HEADS * KEY_DEPTH, 2 * HEADS * KEY_DEPTH], -1)
    query, key, value = (part.reshape(b, h, w, HEADS, -1) for part in parts)
    return relative_attention_2d(query, key, value, *tables, implementation=name).reshape(b, h, w, -1)


def count(function: Callable[..., Any], *inputs: Any) -> dict[str, int]:
    """Bytes moved, kernels that run, and memory beside arguments and results."""
    compiled = compile_on("h100:1", function, *inputs)
    counts = count_program(compiled, Program(compiled.as_text()), devices=1, per_chip=1)
    return {
        "bytes_moved": counts.bytes_moved,
        "kernels": counts.calls,
        "temporary_bytes": compiled.memory_analysis().temp_size_in_bytes,
    }


if __name__ == "__main__":
    main()
