"""AW-convolution (Zhu et al., 2021), a reconstruction: the paper's text was not available, so all counts are ours."""

from collections.abc import Iterator
from dataclasses import dataclass

from aa_flax.analysis.ledger.counting import parameters, summary, table


@dataclass(frozen=True)
class Row:
    """A network and the one whose 3×3 convolutions it gates."""

    model: str
    plain: str
    published: str  # its gain according to the abstract


ROWS = [
    Row("aw_resnet50", "resnet50", "not found"),
    Row("aw_resnet101", "resnet101", "+1.00 % top-1 over ResNet-101"),
]


DETECTORS = [
    Row("faster_rcnn_resnet101", "", "not found"),
    Row("faster_rcnn_aw_resnet101", "faster_rcnn_resnet101", "+0.63 AP over Faster R-CNN with ResNet-101-FPN"),
]
"""Detectors on COCO; `plain` is "" for the one without gates. Each has the config experiments/coco/MODEL.py."""
FLAVOR = dict(flavor="detectron2")
"""Options with which the detectors are counted and trained: 80 classes and background."""


def counted(row: Row) -> tuple[int, int, float]:
    """Return our (parameters, parameters added to the plain network, GFLOPs)."""
    found = summary(row.model)
    return found.params, found.params - summary(row.plain).params, found.flops / 1e9


def lines() -> Iterator[str]:
    """Yield the lines of the paper's section of the ledger."""
    yield from ("", "## Zhu et al. (2021): AW-convolution, a reconstruction", "")
    yield "The paper's text was not available. The networks are rebuilt from its abstract and from summaries by others;"
    yield "the counts are those of the reconstruction (`expand`, reduction 16) and say nothing about the paper's."
    yield ""
    columns = ["model", "params, ours", "beyond the plain network", "GFLOPs, ours", "paper's params, GFLOPs"]
    columns += ["paper's accuracy (abstract)", "ours"]
    rows = []
    for row in ROWS:
        params, added, gflops = counted(row)
        rows.append([f"`{row.model}`", f"{params:,}", f"+{added:,}", f"{gflops:.3f}", "not found", row.published])
    yield from table(columns, ([*cells, "not run"] for cells in rows))
    yield ""
    yield "Beside SE, GE, BAM, CBAM or GALA in these networks the gates add as much. Also in the abstract, without the"
    yield "networks: up to +0.57 % top-1 on top of earlier modules (`experiments/aw/combined.py`, not run)."
    yield ""
    columns = [
        "detector on COCO",
        "params, ours",
        "beyond the plain network",
        "paper's AP (abstract)",
        "ours",
        "config",
    ]
    yield from table(columns, map(_detector, DETECTORS))
    yield ""
    yield "Params with those of the batch norms that are frozen, 105,344 in ResNet-101. Also in the abstract: up to"
    yield "+0.45 AP on top of earlier modules, `faster_rcnn_aw_se_resnet101` and the like. The code of these rows was"
    yield "never published; library, recipe and length of training are ours."
    yield ""
    yield "Not found, so not here: the accuracies themselves, top-5, the tables of CIFAR-100, MobileNet, Mask R-CNN"
    yield "and RetinaNet, every parameter and FLOP figure, the training recipe."


def _detector(row: Row) -> list[str]:
    params = parameters(row.model, FLAVOR)
    added = f"+{params - parameters(row.plain, FLAVOR):,}" if row.plain else ""
    return [f"`{row.model}`", f"{params:,}", added, row.published, "not run", f"`experiments/coco/{row.model}.py`"]
