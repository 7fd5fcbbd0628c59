"""Time of each form of the gated convolution on this machine's device, beside the plain convolution.

    python -m experiments.benchmarks.gated_convolution                       (about five minutes on two CPU cores)

Float32, batch 8, the layers of `gated_cases.py`; median of several rounds in one process. The table of
`aa_flax.ops.gated_choice` follows from it. Writes experiments/results/gated_convolution_PLATFORM.json.
"""

import argparse

import jax
import jax.numpy as jnp
import numpy as np

from experiments.benchmarks import results
from experiments.benchmarks.gated_cases import LAYERS, PARTS, Layer, program, shapes
from experiments.benchmarks.timing import jax_program, median, take_turns


def main() -> None:
    """Time every layer, form and part, and store the times."""
    parser = results.flags(__doc__, "")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument(
        "--seconds", type=float, default=10, help="after which no further round begins, from the third on"
    )
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
    output = arguments.output or results.RESULTS / f"gated_convolution_{jax.default_backend()}.json"
    found = results.origin("gated_convolution")
    results.store({**found, "batch": arguments.batch, "dtype": "float32", "rows": rows}, output)


def milliseconds(layer: Layer, part: str, arguments: argparse.Namespace) -> dict[str, float]:
    """Return the median milliseconds of each form over rounds in which they take turns."""
    drawn = np.random.default_rng(0)
    operands = [jnp.asarray(drawn.normal(size=s), jnp.float32) for s in shapes(layer, arguments.batch).values()]
    programs = {form: jax_program(jax.jit(program(layer, form, part)), *operands) for form in ("plain", "fold", "tap")}
    times = take_turns(programs, rounds=arguments.rounds, seconds=arguments.seconds)
    return {form: median(found) for form, found in times.items()}


if __name__ == "__main__":
    main()
