"""Temporary memory of attention with gradients by the size of the map, as the compiler for this machine counts it.

    python -m experiments.benchmarks.attention_memory                (a minute; nothing runs, so nothing is timed)

The branch is that of `attention_v5e.py`, in float32, on maps from 8×8 to 80×80, in the plain-XLA implementations: the
paper's algorithm and the fold, both of which build the (h·w)² logits, and the fold in pieces, which does not. A TPU's
tiled layouts hide these powers of h·w; here they show.
Writes JSON and a figure to experiments/results/.
"""

from typing import Any

import jax
import jax.numpy as jnp

from experiments.benchmarks import branch, devices, figures, results
from experiments.benchmarks.branch import BATCH, CHANNELS, SIDES, VALUE_DEPTH
from experiments.benchmarks.cases import HEADS, KEY_DEPTH

IMPLEMENTATIONS = ("paper", "folded", "folded_pieces")


def main() -> None:
    """Count every side and implementation, and store and draw the counts."""
    parser = results.flags(__doc__, "")
    parser.add_argument("--device", choices=devices.KINDS, default="auto")
    parser.add_argument("--sides", type=int, nargs="*", default=SIDES)
    arguments = parser.parse_args()
    devices.use(arguments.device)
    rows = [row(name, side) for side in arguments.sides for name in IMPLEMENTATIONS]
    setting = {"dtype": "float32", "heads": HEADS, "key_depth_per_head": KEY_DEPTH, "batch": BATCH}
    times = times_less(rows)
    print(
        "the fold's memory over that in pieces:", ", ".join(f"{side}x{side} {ratio}" for side, ratio in times.items())
    )
    counts = {"folded_over_folded_pieces": times, "scaling": rows}
    found = results.origin("attention_memory")
    result = {**found, "ran": "nothing: counts of the compiler", **setting, **counts}
    output = arguments.output or results.file_here("attention_memory")
    results.store(result, output)
    figures.memory_here(result, output.with_suffix(".png"))


def times_less(rows: list[dict[str, Any]]) -> dict[int, float]:
    """Return by side of the map the memory of the whole fold as a multiple of that of the fold in pieces."""
    taken = {(row["implementation"], row["side"]): row["temporary_bytes"] for row in rows}
    sides = dict.fromkeys(row["side"] for row in rows)
    return {side: round(taken["folded", side] / taken["folded_pieces", side], 1) for side in sides}


def row(name: str, side: int) -> dict[str, Any]:
    """Return the bytes besides arguments and results of a forward and backward pass over the batch."""
    cotangent, inputs = branch.inputs(BATCH, side, CHANNELS, VALUE_DEPTH, jnp.float32)
    compiled: Any = jax.jit(branch.gradients(name)).lower(cotangent, *inputs).compile()
    needed = compiled.memory_analysis().temp_size_in_bytes
    print(f"{side:>4}x{side:<4} {name:<14}{needed / BATCH / 1e6:>12.3f} MB per image", flush=True)
    where = {"implementation": name, "batch": BATCH, "side": side, "places": side**2}
    return where | {"channels": CHANNELS, "value_depth": VALUE_DEPTH, "fits": True, "temporary_bytes": needed}


if __name__ == "__main__":
    main()
