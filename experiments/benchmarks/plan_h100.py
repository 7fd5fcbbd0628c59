"""What a training step of the papers' networks needs of an H100, counted in the compiled program; none is needed.

    python -m experiments.benchmarks.plan_h100               (half an hour on two CPU cores; needs `aa_flax[plan_gpu]`)
    python -m experiments.benchmarks.plan_h100 --only=resnet50,aa_resnet50_025   these rows; the others stay

Table 2 of Bello et al. (2019), AA with kappa = upsilon = 0.25 as there and as in Table 3; Wide-ResNet-28-10,
MnasNet-A1, PatchConvNet-S60 and AW-ResNet-50; attention as "auto" has it, and by the kernel. One card, bfloat16, SGD
with momentum, `python -m aa_flax.plan` for each. Bytes are operands and results of every kernel. Nothing runs, so
nothing is timed. Writes experiments/results/plan_h100.json.
"""

import argparse
import json
from pathlib import Path
from typing import Any, NamedTuple

import jax

from aa_flax.analysis.provenance import commit, provenance
from experiments.benchmarks.planned import KEPT, planned

OUTPUT = Path(__file__).parents[1] / "results" / "plan_h100.json"
TOPOLOGY = "h100:1"
RATIO_25 = "experiments/ablations/attention_ratio_25.py"
CIFAR = "experiments/cifar"
# What a config has beside the network is as for the other rows.
PLAIN = ("--config.model.dtype=bfloat16", "--config.optimizer.ema_decay=0.0")
KERNEL = (*PLAIN, "--config.model.options.implementation=pallas_gpu")


class Row(NamedTuple):
    """A network or config, images, the row that it is compared with, and arguments of `python -m aa_flax.plan`."""

    subject: str
    batch: int
    baseline: str | None = None
    options: tuple[str, ...] = ()


ROWS: dict[str, Row] = {
    "resnet50": Row("resnet50", 256),
    "aa_resnet50_025": Row(RATIO_25, 256, "resnet50", PLAIN),
    "aa_resnet50_025_pallas_gpu": Row(RATIO_25, 256, "resnet50", KERNEL),
    "aa_resnet50": Row("aa_resnet50", 256, "resnet50"),
    "wide_resnet28_10": Row(f"{CIFAR}/wide_resnet28_10.py", 128, None, PLAIN),
    "aa_wide_resnet28_10": Row(f"{CIFAR}/aa_wide_resnet28_10.py", 128, "wide_resnet28_10", PLAIN),
    "aa_wide_resnet28_10_pallas_gpu": Row(f"{CIFAR}/aa_wide_resnet28_10.py", 128, "wide_resnet28_10", KERNEL),
    "se_resnet50": Row("se_resnet50", 256, "resnet50"),
    "ge_resnet50": Row("ge_resnet50", 256, "resnet50"),
    "bam_resnet50": Row("bam_resnet50", 256, "resnet50"),
    "cbam_resnet50": Row("cbam_resnet50", 256, "resnet50"),
    "gala_resnet50": Row("gala_resnet50", 256, "resnet50"),
    "aw_resnet50": Row("aw_resnet50", 256, "resnet50"),
    "mnasnet_100": Row("mnasnet_100", 256),
    "aa_mnasnet_100": Row("aa_mnasnet_100", 256, "mnasnet_100"),
    "patchconvnet_s60": Row("patchconvnet_s60", 256),
}


def main() -> None:
    """Plan each row in a process of its own, and store it as soon as it is known."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="rows, with commas between them")
    parser.add_argument("--output", type=Path, default=OUTPUT)
    arguments = parser.parse_args()
    jax.config.update("jax_platforms", "cpu")  # the plugin for CUDA would look for a driver, and complain
    names = arguments.only.split(",") if arguments.only else list(ROWS)
    if unknown := [name for name in names if name not in ROWS]:
        parser.error(f"--only: no row {unknown[0]!r}; rows: {', '.join(ROWS)}")
    rows = json.loads(arguments.output.read_text())["rows"] if arguments.output.exists() else {}
    for name in names:
        row = ROWS[name]
        found = planned(TOPOLOGY, row.subject, row.batch, row.options)
        kernels = found["kernel_calls"]
        rows[name] = {"batch": row.batch, "commit": commit(), **{key: found[key] for key in KEPT}, "kernels": kernels}
        print(name, rows[name], flush=True)
        result = {
            **provenance("python -m experiments.benchmarks.plan_h100"),
            "device": f"one {found['chip']['title']}, compiled for on a CPU",
            "topology": TOPOLOGY,
            "dtype": "bfloat16",
            "rows": {key: rows[key] for key in ROWS if key in rows},
            "ratios": ratios(rows),
        }
        result["versions"] |= found["versions"]
        arguments.output.write_text(json.dumps(result, indent=1) + "\n")


def ratios(rows: dict[str, Any]) -> dict[str, dict[str, float]]:
    """Bytes moved and temporary memory of each row to those of the row that it is compared with."""
    pairs = {name: row.baseline for name, row in ROWS.items() if row.baseline in rows and name in rows}
    keys = ("bytes_moved", "temp_bytes", "kernels")
    return {
        name: {key: round(rows[name][key] / rows[other][key], 3) for key in keys}
        for name, other in pairs.items()
        if other is not None
    }


if __name__ == "__main__":
    main()
