"""Time of each form of the gated convolution on the device at hand, beside the plain convolution.

    python experiments/benchmarks/gated_convolution.py                       (about five minutes on two CPU cores)

Float32, batch 8, the layers of `gated_cases.py`; median of several rounds in one process. The table of
`aa_flax.ops.gated_choice` goes by it. Writes experiments/results/gated_convolution_PLATFORM.json.
"""

import argparse
import json
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

_ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(_ROOT))  # the checkout need not be installed

from aa_flax.analysis.provenance import provenance  # noqa: E402
from experiments.benchmarks.gated_cases import LAYERS, PARTS, Layer, program, shapes  # noqa: E402
from experiments.benchmarks.timing import jax_program, median, take_turns  # noqa: E402


def main() -> None:
    """Time every layer, form and part, and store the times."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument(
        "--seconds", type=float, default=10, help="after which no further round begins, from the third on"
    )
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    if arguments.batch < 1 or arguments.rounds < 1:
        parser.error("--batch and --rounds must be at least 1")
    rows = []
    for layer in LAYERS:
        for part in PARTS:
            times = milliseconds(layer, part, arguments)
            rows.append({"layer": layer.label, "part": part, "milliseconds": times})
            shown = ", ".join(f"{form} {value:.2f}" for form, value in times.items())
            print(f"{layer.label:>20} {part:<8} ms: {shown}", flush=True)
    output = arguments.output or _ROOT / f"experiments/results/gated_convolution_{jax.default_backend()}.json"
    found = provenance("python experiments/benchmarks/gated_convolution.py")
    output.write_text(
        json.dumps({**found, "batch": arguments.batch, "dtype": "float32", "rows": rows}, indent=1) + "\n"
    )
    print(f"written to {output}")


def milliseconds(layer: Layer, part: str, arguments: argparse.Namespace) -> dict[str, float]:
    """Median of each form over rounds in which they take turns."""
    drawn = np.random.default_rng(0)
    operands = [jnp.asarray(drawn.normal(size=s), jnp.float32) for s in shapes(layer, arguments.batch).values()]
    programs = {form: jax_program(jax.jit(program(layer, form, part)), *operands) for form in ("plain", "fold", "tap")}
    times = take_turns(programs, rounds=arguments.rounds, seconds=arguments.seconds)
    return {form: median(found) for form, found in times.items()}


if __name__ == "__main__":
    main()
