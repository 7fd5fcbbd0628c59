"""Time and memory of every implementation of relative attention at the paper's shapes.

    python experiments/benchmarks/attention.py                              (about 8 minutes on two CPU cores)
    python experiments/benchmarks/attention.py --maps 28x28 --value-depths 6 --output /tmp/quick.json

8 heads of key depth 20. Value depths per head 1, 3 and 6 are those of AA-ResNet-50, 2, 4 and 8 those of AA-WRN-28-10.
For each shape the implementations run in turn, up and down their list, and the median counts; temporary memory is what
the compiler says. Prints a table and writes JSON to experiments/results/.
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from aa_flax.analysis.provenance import provenance
from aa_flax.ops.relative_attention import IMPLEMENTATIONS, relative_attention_2d

RESULTS = Path(__file__).parents[1] / "results"
SOURCES = [f"aa_flax/ops/{name}.py" for name in ("reference", "paper", "folded", "relative_attention")]
SOURCES.append("experiments/benchmarks/attention.py")
HEADS, KEY_DEPTH = 8, 20


def main() -> None:
    arguments = parse()
    rows = []
    print(f"{'map':>7} {'dv':>3}  {'implementation':<14} {'forward ms':>11} {'+backward ms':>13} {'temporary MB':>13}")
    for height, width in arguments.maps:
        for value_depth in arguments.value_depths:
            for row in measure(height, width, value_depth, arguments):
                rows.append(row)
                print(
                    f"{row['map']:>7} {value_depth:>3}  {row['implementation']:<14} {row['forward_ms']:>11.1f} "
                    f"{row['forward_backward_ms']:>13.1f} {row['forward_temporary_bytes'] / 1e6:>13.1f}",
                    flush=True,
                )
    command = " ".join(["python", "experiments/benchmarks/attention.py", *sys.argv[1:]])
    setting = {
        "batch": arguments.batch,
        "dtype": arguments.dtype,
        "heads": HEADS,
        "key_depth_per_head": KEY_DEPTH,
        "repetitions": arguments.repetitions,
    }
    result = {**provenance(command, SOURCES), **setting, "rows": rows, "speedup_over_paper": speedups(rows)}
    output = arguments.output or RESULTS / f"attention_{jax.default_backend()}_jax{jax.__version__}.json"
    output.write_text(json.dumps(result, indent=1) + "\n")
    print(f"written to {output}")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    size = lambda text: tuple(int(n) for n in text.split("x"))  # noqa: E731
    parser.add_argument("--maps", type=size, nargs="+", default=[(14, 14), (28, 28), (32, 32)], metavar="HxW")
    parser.add_argument("--value-depths", type=int, nargs="+", default=[1, 3, 6, 2, 4, 8], help="per head")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--repetitions", type=int, default=8)
    parser.add_argument("--output", type=Path)
    return parser.parse_args()


def measure(height: int, width: int, value_depth: int, arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """A row for each implementation at one shape."""
    rng = np.random.default_rng(0)
    per_head = (arguments.batch, height, width, HEADS)
    shapes: list[tuple[int, ...]] = [(*per_head, KEY_DEPTH), (*per_head, KEY_DEPTH), (*per_head, value_depth)]
    shapes += [(2 * height - 1, KEY_DEPTH), (2 * width - 1, KEY_DEPTH)]
    inputs = [jnp.asarray(rng.normal(size=shape), arguments.dtype) for shape in shapes]
    cotangent = jnp.asarray(rng.normal(size=shapes[2]), arguments.dtype)
    programs = {}
    for name in IMPLEMENTATIONS:
        forward, backward = functions(name, cotangent)
        programs[name] = [jax.jit(f).lower(*inputs).compile() for f in (forward, backward)]
        for program in programs[name]:
            jax.block_until_ready(program(*inputs))
    times: dict[tuple[str, int], list[float]] = {(name, i): [] for name in programs for i in (0, 1)}
    for repetition in range(arguments.repetitions):
        for name in list(programs)[:: 1 if repetition % 2 else -1]:
            for i, program in enumerate(programs[name]):
                started = time.perf_counter()
                jax.block_until_ready(program(*inputs))
                times[name, i].append(1e3 * (time.perf_counter() - started))
    return [
        {
            "map": f"{height}x{width}",
            "value_depth_per_head": value_depth,
            "implementation": name,
            "forward_ms": round(statistics.median(times[name, 0]), 3),
            "forward_backward_ms": round(statistics.median(times[name, 1]), 3),
            "forward_temporary_bytes": temporary_bytes(programs[name][0]),
            "forward_backward_temporary_bytes": temporary_bytes(programs[name][1]),
        }
        for name in programs
    ]


def temporary_bytes(program: Any) -> int:
    """Memory that the compiled program takes beside its arguments and results."""
    return program.memory_analysis().temp_size_in_bytes


def functions(name: str, cotangent: jax.Array) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """The forward pass, and forward with all five gradients."""

    def forward(*inputs: jax.Array) -> jax.Array:
        return relative_attention_2d(*inputs, implementation=name)

    def backward(*inputs: jax.Array) -> Any:
        output, pullback = jax.vjp(forward, *inputs)
        return output, pullback(cotangent)

    return forward, backward


def speedups(rows: list[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """How many times faster than the paper's algorithm each shape runs folded."""
    table: dict[str, dict[str, float]] = {}
    by_key = {(row["map"], row["value_depth_per_head"], row["implementation"]): row for row in rows}
    for size, depth, name in by_key:
        if name == "folded":
            ours, paper = by_key[size, depth, "folded"], by_key[size, depth, "paper"]
            table[f"{size} dv{depth}"] = {
                column: round(paper[column] / ours[column], 2) for column in ("forward_ms", "forward_backward_ms")
            }
    return table


if __name__ == "__main__":
    main()
