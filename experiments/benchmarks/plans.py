"""Plans of training steps of the papers' networks, counted in the program compiled for a TPU or GPU; none is needed.

    python -m experiments.benchmarks.plans h100        one H100        (half an hour on two CPU cores)
    python -m experiments.benchmarks.plans v5e         four v5e chips  (12 minutes)
    python -m experiments.benchmarks.plans aw_v5e      the same, of AW-convolutions               (10 minutes)
    python -m experiments.benchmarks.plans scale_v5e   8, 64 and 256 v5e chips, 128 images each   (20 minutes)
    python -m experiments.benchmarks.plans detection_v5e      RetinaNet, 64 v5e chips, 4 images each; inference on one
    python -m experiments.benchmarks.plans detection_h100     RetinaNet, one H100, 32 images
    python -m experiments.benchmarks.plans regions_v5e        Faster R-CNN, Mask R-CNN and UPerNet, 2 images a chip
    python -m experiments.benchmarks.plans regions_h100       the same, one H100
    python -m experiments.benchmarks.plans h100 --only=resnet50,aa_resnet50_025    these rows; the others stay

GPUs need `aa_flax[plan_gpu]`, TPUs `aa_flax[plan]`. The steps are in bfloat16, with SGD and momentum; each row is one
call of `python -m aa_flax.plan`. The results are counts, not times. Writes experiments/results/plan_h100.json,
plan_v5e.json, aw_v5e.json, scale_v5e.json, detection_v5e.json, detection_h100.json, regions_v5e.json or
regions_h100.json.
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import jax

from aa_flax.analysis.provenance import commit
from experiments.benchmarks import results

_ROOT = Path(__file__).parents[2]
RATIO_25 = "experiments/ablations/attention_ratio_25.py"
CIFAR = "experiments/cifar"
COCO = "experiments/coco"
ADE20K = "experiments/ade20k"
INFER = ("--mode=infer",)
# Settings that make a config's row equal to the other rows, except for the network.
PLAIN = ("--config.model.dtype=bfloat16", "--config.optimizer.ema_decay=0.0")
KERNEL = (*PLAIN, "--config.model.options.implementation=pallas_gpu")
# Batch norm and loss of the whole batch, as a network by its name has them.
ONE_GROUP = ("--config.parallel.batch_norm_groups=1", "--config.model.options.normalizer=batch")


class Row(NamedTuple):
    """A training step: network or config, images of all chips, row to compare with, flags of the plan, own machine."""

    subject: str
    batch: int
    baseline: str | None = None
    options: tuple[str, ...] = ()
    topology: str | None = None  # None: the table's


def _of_regions(eight: str | None) -> dict[str, Row]:
    """Return the rows of Faster R-CNN, Mask R-CNN and UPerNet by their configs, 2 images a chip.

    Args:
        eight: the topology on which Faster R-CNN is trained, all 16 images; None for one chip as for the others.
    """
    rows = {}
    for mode, flags in (("", ()), ("_inference", INFER)):
        for name in ("faster_rcnn_resnet101", "faster_rcnn_aw_resnet101"):
            gated = f"faster_rcnn_resnet101{mode}" if "_aw_" in name else None
            many = eight if mode == "" else None
            rows[f"{name}{mode}"] = Row(
                f"{COCO}/{name}.py",
                16 if many else 2,
                gated,
                ("--image_size=800x1344", "--scope=roi_align", *flags),
                many,
            )
        for folder, family in ((COCO, "mask_rcnn"), (ADE20K, "upernet")):
            for size in ("512x512", "800x1344"):
                for backbone in ("resnet50", "patchconvnet_s60"):
                    other = None if backbone == "resnet50" else f"{family}_resnet50_{size}{mode}"
                    rows[f"{family}_{backbone}_{size}{mode}"] = Row(
                        f"{folder}/{family}_{backbone}.py",
                        2,
                        other,
                        (f"--image_size={size}", "--scope=roi_align", *flags),
                    )
    return rows


class Table(NamedTuple):
    """Rows by name, the machine that they are for, and what is stored of each plan."""

    topology: str
    file: str
    rows: dict[str, Row]
    more: tuple[str, ...] = ()  # values kept besides `KEPT`


KEPT = (
    "batch",
    "fits",
    "bytes_moved",
    "hbm_bytes",
    "temp_bytes",
    "params_bytes",
    "optimizer_bytes",
    "collective_bytes",
    "flops",
)
REGIONS = ("topology", "image_size", "optimizer", "total_bytes", "memory", "bound", "bound_by", "scope")
RATIOS = ("bytes_moved", "hbm_bytes", "temp_bytes", "total_bytes", "kernels")

TABLES: dict[str, Table] = {
    # Table 2 of Bello et al. (2019), AA with kappa = upsilon = 0.25 as there and as in Table 3; attention as "auto"
    # chooses it, and by the kernel.
    "h100": Table(
        "h100:1",
        "plan_h100.json",
        {
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
        },
    ),
    "v5e": Table(
        "v5e:2x2",
        "plan_v5e.json",
        {
            "resnet50": Row("resnet50", 1024),
            "aa_resnet50": Row("aa_resnet50", 1024, "resnet50"),
            "wide_resnet28_10": Row("wide_resnet28_10", 512),
            "aa_wide_resnet28_10": Row("aa_wide_resnet28_10", 512, "wide_resnet28_10"),
        },
    ),
    # Layer by layer: gated_convolution_v5e.py.
    "aw_v5e": Table(
        "v5e:2x2",
        "aw_v5e.json",
        {"resnet50": Row("resnet50", 512), "aw_resnet50": Row("aw_resnet50", 512, "resnet50")},
    ),
    # Data parallel, with the state on every chip and split over the chips (FSDP).
    "scale_v5e": Table(
        "v5e:2x4",
        "scale_v5e.json",
        {
            f"{chips} chips, {state}": Row(
                "experiments/imagenet/aa_resnet50.py",
                128 * chips,
                None,
                (*PLAIN, f"--config.parallel.fsdp={state == 'split'}"),
                topology,
            )
            for chips, topology in ((8, "v5e:2x4"), (64, "v5e:8x8"), (256, "v5e:16x16"))
            for state in ("replicated", "split")
        },
        ("topology", "batch_stats_bytes", "total_bytes", "collectives", "bound", "bound_by"),
    ),
    # Training by the configs, 4 images a chip; by the networks' names, 8; and inference with what follows the network.
    "detection_v5e": Table(
        "v5e:8x8",
        "detection_v5e.json",
        {
            "retinanet_resnet50": Row(f"{COCO}/retinanet_resnet50.py", 256),
            "retinanet_aa_resnet50": Row(f"{COCO}/retinanet_aa_resnet50.py", 256, "retinanet_resnet50"),
            "retinanet_resnet50_8_a_chip": Row("retinanet_resnet50", 32, None, (), "v5e:2x2"),
            "retinanet_aa_resnet50_8_a_chip": Row(
                "retinanet_aa_resnet50", 32, "retinanet_resnet50_8_a_chip", (), "v5e:2x2"
            ),
            "retinanet_resnet50_inference": Row("retinanet_resnet50", 8, None, INFER, "v5e:1x1"),
            "retinanet_aa_resnet50_inference": Row(
                "retinanet_aa_resnet50", 8, "retinanet_resnet50_inference", INFER, "v5e:1x1"
            ),
        },
        ("topology", "total_bytes", "collectives", "bound", "bound_by"),
    ),
    "detection_h100": Table(
        "h100:1",
        "detection_h100.json",
        {
            "retinanet_resnet50": Row("retinanet_resnet50", 32),
            "retinanet_aa_resnet50": Row("retinanet_aa_resnet50", 32, "retinanet_resnet50"),
            "retinanet_aa_resnet50_pallas_gpu": Row(
                f"{COCO}/retinanet_aa_resnet50.py", 32, "retinanet_resnet50", (*KERNEL, *ONE_GROUP)
            ),
            "retinanet_resnet50_inference": Row("retinanet_resnet50", 8, None, INFER),
            "retinanet_aa_resnet50_inference": Row("retinanet_aa_resnet50", 8, "retinanet_resnet50_inference", INFER),
        },
    ),
    "regions_v5e": Table("v5e:1x1", "regions_v5e.json", _of_regions("v5e:2x4"), (*REGIONS, "collectives")),
    "regions_h100": Table("h100:1", "regions_h100.json", _of_regions(None), REGIONS),
}


def main() -> None:
    """Plan each row in a process of its own, and store it as soon as it is known."""
    parser = results.flags(__doc__, "")
    parser.add_argument("table", choices=list(TABLES))
    parser.add_argument("--only", default="", help="rows, with commas between them")
    arguments = parser.parse_args()
    table = TABLES[arguments.table]
    output = arguments.output or results.RESULTS / table.file
    names = arguments.only.split(",") if arguments.only else list(table.rows)
    if unknown := [name for name in names if name not in table.rows]:
        parser.error(f"--only: no row {unknown[0]!r}; rows: {', '.join(table.rows)}")
    jax.config.update("jax_platforms", "cpu")  # otherwise the plugin for CUDA looks for a driver, and warns
    for name in names:
        row = table.rows[name]
        found = planned(row, table.topology)
        rows = stored(output)  # now, because others may have written since
        counts = {key: found[key] for key in (*KEPT, *table.more)}
        rows[name] = {"commit": commit(), **counts, "kernels": found["kernel_calls"]}
        print(name, rows[name], flush=True)
        result = results.origin("plans", [arguments.table], table.topology)
        kept = {key: rows[key] for key in table.rows if key in rows}
        results.store({**result, "dtype": "bfloat16", "rows": kept, "ratios": ratios(table, rows)}, output)


def stored(file: Path) -> dict[str, Any]:
    """Return the rows of a file by name; none where it has another form, as results of older commits have."""
    rows = json.loads(file.read_text())["rows"] if file.exists() else {}
    return rows if isinstance(rows, dict) else {}


def planned(row: Row, topology: str) -> dict[str, Any]:
    """Return the object that `python -m aa_flax.plan` prints for a training step in bfloat16."""
    subject = f"--config={row.subject}" if row.subject.endswith(".py") else f"--model={row.subject}"
    command = [sys.executable, "-m", "aa_flax.plan", f"--topology={row.topology or topology}", subject]
    command += [f"--batch={row.batch}", "--json", *row.options]
    done = subprocess.run(command, cwd=_ROOT, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout)


def ratios(table: Table, rows: dict[str, Any]) -> dict[str, dict[str, float]]:
    """Return the counts of each known row as multiples of those of the row that it is compared with."""
    pairs = {name: row.baseline for name, row in table.rows.items() if row.baseline in rows and name in rows}
    return {
        name: {
            key: round(rows[name][key] / rows[other][key], 4)
            for key in RATIOS
            if rows[name].get(key) and rows[other].get(key)
        }
        for name, other in pairs.items()
        if other is not None
    }


if __name__ == "__main__":
    main()
