"""Bytes that each form of the gated convolution moves on a TPU v5e, counted by its compiler without such a chip.

    python -m experiments.benchmarks.gated_convolution_v5e      (about ten minutes on two CPU cores; needs libtpu)

Batch 128, bfloat16, the layers of `gated_cases.py`: the convolution, its gradient by the input and that by kernel and
gate, each by itself, beside the plain convolution's. The table of `aa_flax.ops.gated_choice` follows from it. Writes
experiments/results/gated_convolution_v5e.json. Nothing runs, so nothing is timed.
"""

from typing import Any

import jax
import jax.numpy as jnp

from aa_flax.analysis import count
from experiments.benchmarks import results
from experiments.benchmarks.gated_cases import LAYERS, PARTS, Layer, program, shapes

TARGET, BATCH = "v5e:1x1", 128


def main() -> None:
    """Count every layer, form and part, and store the counts."""
    parser = results.flags(__doc__, "gated_convolution_v5e.json")
    parser.add_argument("--first", type=int, default=len(LAYERS), metavar="N", help="only the first N layers")
    arguments = parser.parse_args()
    rows = []
    for layer in LAYERS[: arguments.first]:
        plain = {part: counted(layer, "plain", part) for part in PARTS}
        for form in ("fold", "tap"):
            for part in PARTS:
                own = counted(layer, form, part)
                ratio = round(own["bytes_moved"] / plain[part]["bytes_moved"], 2)
                rows.append({"layer": layer.label, "form": form, "part": part, "to_plain": ratio, **own})
                print(
                    f"{layer.label:>20} {form} {part:<8} {ratio:6.2f}× {own['temporary_bytes'] / 1e6:7.0f} MB",
                    flush=True,
                )
        rows += [{"layer": layer.label, "form": "plain", "part": part, **counts} for part, counts in plain.items()]
    found = results.origin("gated_convolution_v5e", target=TARGET)
    results.store({**found, "batch": BATCH, "dtype": "bfloat16", "rows": rows}, arguments.output)


def counted(layer: Layer, form: str, part: str) -> dict[str, Any]:
    """Return bytes moved, temporary memory, and how long the compiler took."""
    operands = [jax.ShapeDtypeStruct(shape, jnp.bfloat16) for shape in shapes(layer, BATCH).values()]
    found = count(TARGET, program(layer, form, part), *operands)
    return {
        "bytes_moved": found.counts.bytes_moved,
        "temporary_bytes": found.temporary_bytes,
        "compile_seconds": round(found.compile_seconds, 1),
    }


if __name__ == "__main__":
    main()
