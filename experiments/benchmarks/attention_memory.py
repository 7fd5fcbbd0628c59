"""Temporary memory of attention with gradients against the size of the map, as the compiler for this machine counts it.

    python experiments/benchmarks/attention_memory.py                (a minute; nothing runs, so nothing is timed)

The same branch as in `attention_v5e.py`, in float32, on maps from 8×8 to 80×80, in the plain-XLA implementations: the
paper's algorithm and the fold, both of which build the (h·w)² logits, and the fold in pieces, which does not. A TPU's
tiles blur those powers; here they are clean.
Writes JSON and a figure to experiments/results/.
"""

import argparse
import functools
import json
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

_ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(_ROOT))  # the checkout need not be installed

from aa_flax.analysis.provenance import provenance  # noqa: E402
from experiments.benchmarks import devices, figures  # noqa: E402
from experiments.benchmarks.attention_v5e import (  # noqa: E402
    BATCH,
    CHANNELS,
    RESULTS,
    SIDES,
    VALUE_DEPTH,
    separate,
    with_gradients,
)
from experiments.benchmarks.cases import HEADS, KEY_DEPTH  # noqa: E402

IMPLEMENTATIONS = ("paper", "folded", "folded_pieces")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=devices.KINDS, default="auto")
    parser.add_argument("--sides", type=int, nargs="*", default=SIDES)
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    devices.use(arguments.device)
    rows = [row(name, side) for side in arguments.sides for name in IMPLEMENTATIONS]
    setting = {"dtype": "float32", "heads": HEADS, "key_depth_per_head": KEY_DEPTH, "batch": BATCH}
    found = provenance("python experiments/benchmarks/attention_memory.py")
    times = times_less(rows)
    print(
        "the fold's memory over that in pieces:", ", ".join(f"{side}x{side} {ratio}" for side, ratio in times.items())
    )
    counts = {"folded_over_folded_pieces": times, "scaling": rows}
    result = {**found, "ran": "nothing: counts of the compiler", **setting, **counts}
    name = f"attention_memory_{jax.default_backend()}_jax{jax.__version__}"
    output = arguments.output or RESULTS / f"{name}.json"
    output.write_text(json.dumps(result, indent=1) + "\n")
    figures.memory_here(result, output.with_suffix(".png"))
    print(f"written to {output}")


def times_less(rows: list[dict[str, Any]]) -> dict[int, float]:
    """By side: how many times the memory of the pieces the whole fold takes."""
    taken = {(row["implementation"], row["side"]): row["temporary_bytes"] for row in rows}
    sides = dict.fromkeys(row["side"] for row in rows)
    return {side: round(taken["folded", side] / taken["folded_pieces", side], 1) for side in sides}


def row(name: str, side: int) -> dict[str, Any]:
    """Bytes beside arguments and results of a forward and backward pass over the batch."""
    shapes: list[tuple[int, ...]] = [(BATCH, side, side, CHANNELS), (BATCH, side, side, VALUE_DEPTH)]
    shapes += [(CHANNELS, 2 * HEADS * KEY_DEPTH + VALUE_DEPTH), (VALUE_DEPTH, VALUE_DEPTH)]
    shapes += [(2 * side - 1, KEY_DEPTH)] * 2
    function = jax.jit(with_gradients(functools.partial(separate, name)))
    compiled: Any = function.lower(*(jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes)).compile()
    needed = compiled.memory_analysis().temp_size_in_bytes
    print(f"{side:>4}x{side:<4} {name:<14}{needed / BATCH / 1e6:>12.3f} MB per image", flush=True)
    where = {"implementation": name, "batch": BATCH, "side": side, "places": side**2}
    return where | {"channels": CHANNELS, "value_depth": VALUE_DEPTH, "fits": True, "temporary_bytes": needed}


if __name__ == "__main__":
    main()
