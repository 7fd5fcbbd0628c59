"""Time RoIAlign's forms on this device: gathers of what each bin reads, and products with whole maps.

    python -m experiments.benchmarks.roi_align [--rounds=5] [--output=FILE.json]

Prints, and stores in experiments/results/roi_align_*.json, milliseconds of the bins alone and of the gradients by the
map alone, by side of a square map of stride 1, size of the output and sampling ratio (0: adaptive); and which forms
"auto" takes. One photograph of 128 boxes whose sides are 0.1 to 0.9 of the map's; 256 channels, float32. "adaptive"
depends on the boxes: a bin of 7 has up to 8 samples along each side here, on a feature pyramid 2 to 4.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from aa_flax.ops import roi_align
from aa_flax.ops.roi_choice import choose_forms
from experiments.benchmarks.results import file_here, flags, origin, store
from experiments.benchmarks.timing import Program, jax_program, median, take_turns

BOXES, CHANNELS = 128, 256
CASES = [(side, size, ratio) for size, ratio in ((7, 2), (14, 2), (7, 0)) for side in (8, 16, 24, 32, 48, 64)]


def programs(side: int, size: int, ratio: int) -> dict[tuple[str, str], Program]:
    """Return the programs of both forms, by form and what they compute."""
    rng = np.random.default_rng(0)
    low = rng.uniform(0, 0.7 * side, (1, BOXES, 2))
    sides = rng.uniform(0.1 * side, 0.9 * side, (1, BOXES, 2))
    boxes = jnp.asarray(np.concatenate([low, low + sides], -1), jnp.float32)
    map_ = jnp.asarray(rng.normal(size=(1, side, side, CHANNELS)), jnp.float32)
    cotangent = jnp.asarray(rng.normal(size=(1, BOXES, size, size, CHANNELS)), jnp.float32)
    found = {}
    for form in ("gather", "product"):

        def bins(map_: jax.Array, boxes: jax.Array, form: Any = form) -> jax.Array:
            return roi_align(map_, boxes, output_size=size, strides=1, sampling_ratio=ratio, implementation=form)

        def gradients(map_: jax.Array, boxes: jax.Array, cotangent: jax.Array, bins: Any = bins) -> Any:
            return jax.vjp(lambda map_: bins(map_, boxes), map_)[1](cotangent)

        found[form, "bins"] = jax_program(jax.jit(bins).lower(map_, boxes).compile(), map_, boxes)
        compiled = jax.jit(gradients).lower(map_, boxes, cotangent).compile()
        found[form, "gradients"] = jax_program(compiled, map_, boxes, cotangent)
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the benchmark."""
    parser = flags(__doc__, "")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args(arguments)
    rows = []
    for side, size, ratio in CASES:
        times = take_turns(programs(side, size, ratio), rounds=options.rounds, seconds=20)
        row: dict[str, Any] = {"side": side, "output_size": size, "sampling_ratio": ratio}
        row |= {f"{form}_{what}_ms": median(each) for (form, what), each in times.items()}
        row["auto"] = choose_forms("auto", [(side, side)], (size, size), ratio, 8)
        print("  ".join(f"{name} {value}" for name, value in row.items()), flush=True)
        rows.append(row)
    result = origin("roi_align") | {"boxes": BOXES, "channels": CHANNELS, "dtype": "float32", "rows": rows}
    store(result, options.output or file_here("roi_align"))


if __name__ == "__main__":
    main()
