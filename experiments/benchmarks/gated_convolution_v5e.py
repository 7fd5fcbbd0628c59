"""Bytes that each form of the gated convolution moves on a TPU v5e, counted by its compiler without one.

    python experiments/benchmarks/gated_convolution_v5e.py      (about ten minutes on two CPU cores; needs libtpu)

Batch 128, bfloat16, the layers of `gated_cases.py`: the convolution, its gradient for the input and that for kernel and
gate, each by itself, beside the plain convolution's. The table of `aa_flax.ops.gated_choice` goes by it. Writes
experiments/results/gated_convolution_v5e.json. Nothing runs, so nothing is timed.
"""

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec

_ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(_ROOT))  # the checkout need not be installed

from aa_flax.analysis import tpu_compiler  # noqa: E402
from aa_flax.analysis.counts import count_program  # noqa: E402
from aa_flax.analysis.hlo import Program  # noqa: E402
from aa_flax.analysis.provenance import provenance  # noqa: E402
from experiments.benchmarks import v5e  # noqa: E402
from experiments.benchmarks.gated_cases import LAYERS, PARTS, Layer, program, shapes  # noqa: E402

BATCH = 128


def main() -> None:
    """Count every layer, form and part, and store the counts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=_ROOT / "experiments/results/gated_convolution_v5e.json")
    output = parser.parse_args().output
    mesh, rows = v5e.mesh(), []
    for layer in LAYERS:
        plain = {part: counted(layer, "plain", part, mesh) for part in PARTS}
        for form in ("fold", "tap"):
            for part in PARTS:
                own = counted(layer, form, part, mesh)
                ratio = round(own["bytes_moved"] / plain[part]["bytes_moved"], 2)
                rows.append({"layer": layer.label, "form": form, "part": part, "to_plain": ratio, **own})
                print(
                    f"{layer.label:>20} {form} {part:<8} {ratio:6.2f}× {own['temporary_bytes'] / 1e6:7.0f} MB",
                    flush=True,
                )
        rows += [{"layer": layer.label, "form": "plain", "part": part, **counts} for part, counts in plain.items()]
    found = provenance("python experiments/benchmarks/gated_convolution_v5e.py")
    found["device"] = "TPU v5e, compiled for on a CPU"
    output.write_text(json.dumps({**found, "batch": BATCH, "dtype": "bfloat16", "rows": rows}, indent=1) + "\n")
    print(f"written to {output}")


def counted(layer: Layer, form: str, part: str, mesh: Any) -> dict[str, Any]:
    """Bytes moved, temporary memory, and how long the compiler took."""
    where = NamedSharding(mesh, PartitionSpec())
    arguments = [jax.ShapeDtypeStruct(s, jnp.bfloat16, sharding=where) for s in shapes(layer, BATCH).values()]
    start = time.perf_counter()
    with jax.set_mesh(mesh):
        compiled = tpu_compiler.compile_program(jax.jit(program(layer, form, part)).lower(*arguments))
    counts = count_program(compiled, Program(compiled.as_text()), devices=1, per_chip=1)
    return {
        "bytes_moved": counts.bytes_moved,
        "temporary_bytes": compiled.memory_analysis().temp_size_in_bytes,
        "compile_seconds": round(time.perf_counter() - start, 1),
    }


if __name__ == "__main__":
    main()
