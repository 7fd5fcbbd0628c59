"""Bytes that each form of RoIAlign moves on a TPU v5e and an H100, counted by their compilers without such a device.

    python -m experiments.benchmarks.roi_align_counts v5e       (needs libtpu)
    python -m experiments.benchmarks.roi_align_counts h100      (needs `aa_flax[plan_gpu]`)

Two photographs on a canvas of 800×1344, or a small one, the pyramid's levels of strides 4 to 32, 256 channels in
bfloat16; boxes as the heads of Faster and Mask R-CNN see them in training (512 for 7×7 bins, 128 for 14×14) and in
inference (1000, 100). Bins and gradients are counted apart, by gathers and by products; `aa_flax.ops.roi_choice`
follows. FLOPs are those of the products; at the highest precision, as here, a TPU multiplies in bfloat16 six times for
each. Writes experiments/results/roi_align_v5e.json or roi_align_h100.json. Nothing runs, so nothing is timed.
"""

import itertools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from aa_flax.analysis import count
from aa_flax.analysis.compiler import DoesNotFit
from aa_flax.ops import roi_align
from experiments.benchmarks import results

TARGETS = {"v5e": "v5e:1x1", "h100": "h100:1"}
IMAGES, STRIDES, CHANNELS = 2, (4, 8, 16, 32), 256
FORMS = ("gather", "product")


class Case(NamedTuple):
    """A canvas, the boxes of each image, the bins along each side, and what is counted."""

    canvas: tuple[int, int]
    boxes: int
    size: int
    parts: tuple[str, ...]


CASES = {
    "boxes, training": Case((800, 1344), 512, 7, ("bins", "gradients")),
    "masks, training": Case((800, 1344), 128, 14, ("bins", "gradients")),
    "boxes, training, small": Case((240, 320), 512, 7, ("gradients",)),
    "boxes": Case((800, 1344), 1000, 7, ("bins",)),
    "masks": Case((800, 1344), 100, 14, ("bins",)),
}


def main() -> None:
    """Count every case, form and part, and store the counts."""
    parser = results.flags(__doc__, "")
    parser.add_argument("target", choices=list(TARGETS))
    arguments = parser.parse_args()
    target, rows = TARGETS[arguments.target], []
    output = arguments.output or results.RESULTS / f"roi_align_{arguments.target}.json"
    setting = {"images": IMAGES, "strides": STRIDES, "channels": CHANNELS, "dtype": "bfloat16"}
    for name, case in CASES.items():
        for part, form in itertools.product(case.parts, FORMS):
            about = {"case": name, **case._asdict(), "part": part, "form": form}
            del about["parts"]
            rows.append(about | counted(target, case, part, form))
            print("  ".join(f"{key} {value}" for key, value in rows[-1].items()), flush=True)
            found = results.origin("roi_align_counts", [arguments.target], target)
            results.store({**found, **setting, "rows": rows}, output)


def counted(target: str, case: Case, part: str, form: Any) -> dict[str, Any]:
    """Return what is counted of the bins, or of their gradient by the maps."""
    shapes = [(IMAGES, *(math.ceil(side / stride) for side in case.canvas), CHANNELS) for stride in STRIDES]
    maps = [jax.ShapeDtypeStruct(shape, jnp.bfloat16) for shape in shapes]
    where = jax.ShapeDtypeStruct((IMAGES, case.boxes, 4), jnp.float32)
    cotangent = jax.ShapeDtypeStruct((IMAGES, case.boxes, case.size, case.size, CHANNELS), jnp.bfloat16)

    def bins(maps: Any, where: Any) -> Any:
        return roi_align(maps, where, output_size=case.size, strides=STRIDES, implementation=form)

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
