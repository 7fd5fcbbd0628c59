"""What a training step keeps and sends on 8, 64 and 256 chips of a TPU v5e, counted by its compiler without one.

    python experiments/benchmarks/scale_v5e.py                             (about 20 minutes on two CPU cores)

AA-ResNet-50 in bfloat16, SGD with momentum, 128 images a chip, so 32,768 on 256 chips: data parallel, and with the
state split over the chips (FSDP). Writes experiments/results/scale_v5e.json. Counts, not times. Needs libtpu.
"""

import argparse
import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

_ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(_ROOT))  # the checkout need not be installed

from aa_flax.analysis import tpu_compiler  # noqa: E402

tpu_compiler.prepare()

from aa_flax.analysis.plan import plan  # noqa: E402
from aa_flax.analysis.programs import Subject, of_model  # noqa: E402
from aa_flax.analysis.provenance import provenance  # noqa: E402
from aa_flax.analysis.slices import find_slice  # noqa: E402

TOPOLOGIES = {"v5e:2x4": 8, "v5e:8x8": 64, "v5e:16x16": 256}
IMAGES = 128  # a chip


def main() -> None:
    """Plan each, one after the other, and store the counts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="aa_resnet50")
    parser.add_argument("--output", type=Path, default=_ROOT / "experiments" / "results" / "scale_v5e.json")
    arguments = parser.parse_args()
    rows = []
    for topology, chips in TOPOLOGIES.items():
        for fsdp in (False, True):
            rows.append(row(of_model(arguments.model).with_batch(IMAGES * chips), topology, fsdp))
            print(json.dumps(rows[-1]), flush=True)
    result = {**provenance("python experiments/benchmarks/scale_v5e.py"), "rows": rows}
    result["device"] = "TPU v5e, compiled for on a CPU"
    arguments.output.write_text(json.dumps(result, indent=1) + "\n")
    print(f"written to {arguments.output}")


def row(subject: Subject, topology: str, fsdp: bool) -> dict[str, Any]:
    """The counts of one step, per chip."""
    parallel = dataclasses.replace(subject.config.parallel, fsdp=fsdp)
    subject = dataclasses.replace(subject, config=dataclasses.replace(subject.config, parallel=parallel))
    wanted = find_slice(topology)
    planned = plan(subject, "train", wanted, tpu_compiler.mesh_of(wanted))
    assert planned.counts is not None and planned.bound is not None, "the compiler gave up"
    return {
        "model": subject.config.model.name,
        "topology": topology,
        "chips": TOPOLOGIES[topology],
        "state": "split" if fsdp else "replicated",
        "batch": subject.config.batch_size,
        "fits": planned.fits,
        "state_bytes": planned.params_bytes + planned.optimizer_bytes + planned.batch_stats_bytes + planned.ema_bytes,
        "temporary_bytes": planned.memory.temporary,
        "total_bytes": planned.memory.total,
        "collectives": [dataclasses.asdict(collective) for collective in planned.counts.collectives],
        "sent_bytes": planned.counts.sent_bytes,
        "interconnect_seconds": round(planned.bound.interconnect_seconds, 6),
        "step_seconds_at_least": round(planned.bound.seconds, 6),
        "bound_by": planned.bound.by,
    }


if __name__ == "__main__":
    main()
