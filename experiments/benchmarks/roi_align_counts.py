"""Bytes that each form of RoIAlign moves on a TPU v5e and an H100, counted by their compilers without such a device.

    python -m experiments.benchmarks.roi_align_counts v5e       (needs libtpu)
    python -m experiments.benchmarks.roi_align_counts h100      (needs `aa_flax[plan_gpu]`)

Two photographs on a canvas of 800×1344, the pyramid's levels of strides 4 to 32, 256 channels in bfloat16; boxes as the
heads of Faster and Mask R-CNN see them in training (512 for 7×7 bins, 128 for 14×14) and in inference (1000, 100). Bins
and gradients are counted apart, by gathers and by products; `aa_flax.ops.roi_choice` follows. FLOPs are those of the
products; at the highest precision, as here, a TPU multiplies in bfloat16 six times for each. Writes
experiments/results/roi_align_v5e.json or roi_align_h100.json. Nothing runs, so nothing is timed.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp

from aa_flax.analysis import count
from aa_flax.analysis.compiler import DoesNotFit
from aa_flax.ops import roi_align
from experiments.benchmarks import results

TARGETS = {"v5e": "v5e:1x1", "h100": "h100:1"}
IMAGES, CANVAS, STRIDES, CHANNELS = 2, (800, 1344), (4, 8, 16, 32), 256
CASES = {"boxes, training": (512, 7), "masks, training": (128, 14), "boxes": (1000, 7), "masks": (100, 14)}
FORMS = ("gather", "product")


def main() -> None:
    """Count every case, form and part, and store the counts."""
    parser = results.flags(__doc__, "")
    parser.add_argument("target", choices=list(TARGETS))
    arguments = parser.parse_args()
    target, rows = TARGETS[arguments.target], []
    for name, (boxes, size) in CASES.items():
        for part in ("bins", "gradients") if "training" in name else ("bins",):
            for form in FORMS:
                row = {"case": name, "boxes": boxes, "output_size": size, "part": part, "form": form}
                rows.append(row | counted(target, boxes, size, part, form))
                print("  ".join(f"{key} {value}" for key, value in rows[-1].items()), flush=True)
    found = results.origin("roi_align_counts", [arguments.target], target)
    setting = {"images": IMAGES, "canvas": CANVAS, "strides": STRIDES, "channels": CHANNELS, "dtype": "bfloat16"}
    results.store(
        {**found, **setting, "rows": rows}, arguments.output or results.RESULTS / f"roi_align_{arguments.target}.json"
    )


def counted(target: str, boxes: int, size: int, part: str, form: Any) -> dict[str, Any]:
    """Return what is counted of the bins of so many boxes of each image, or of their gradient by the maps."""
    shapes = [(IMAGES, *(math.ceil(side / stride) for side in CANVAS), CHANNELS) for stride in STRIDES]
    maps = [jax.ShapeDtypeStruct(shape, jnp.bfloat16) for shape in shapes]
    where = jax.ShapeDtypeStruct((IMAGES, boxes, 4), jnp.float32)
    cotangent = jax.ShapeDtypeStruct((IMAGES, boxes, size, size, CHANNELS), jnp.bfloat16)

    def bins(maps: Any, where: Any) -> Any:
        return roi_align(maps, where, output_size=size, strides=STRIDES, implementation=form)

    def gradients(cotangent: Any, where: Any) -> Any:
        # The bins are linear in the maps: without maps that vary, they are not computed.
        zeros = [jnp.zeros(each.shape, each.dtype) for each in maps]
        return jax.vjp(lambda maps: bins(maps, where), zeros)[1](cotangent)

    found = count(target, bins, maps, where) if part == "bins" else count(target, gradients, cotangent, where)
    try:
        counts = found.counts
    except DoesNotFit:
        return {"fits": False, "temporary_bytes": found.temporary_bytes}
    return {
        "fits": True,
        "bytes_moved": counts.bytes_moved,
        "hbm_bytes": counts.hbm_bytes,
        "flops": counts.flops,
        "temporary_bytes": found.temporary_bytes,
        "kernels": counts.calls,
        "loops": counts.loops,
    }


if __name__ == "__main__":
    main()
