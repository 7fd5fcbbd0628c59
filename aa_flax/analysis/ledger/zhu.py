"""AW-convolution (Zhu et al., 2021), a reconstruction: the paper's text was not available, so all counts are ours."""

from collections.abc import Iterator
from dataclasses import dataclass

from aa_flax.analysis.ledger.counting import summary, table


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
    yield "networks: up to +0.57 % top-1 on top of earlier modules (`experiments/aw/combined.py`, not run); on COCO"
    yield "+0.63 AP over Faster R-CNN with ResNet-101-FPN, and up to +0.45 AP on top of earlier modules (no Faster"
    yield "R-CNN here)."
    yield ""
    yield "Not found, so not here: the accuracies themselves, the tables of CIFAR-100, MobileNet, Mask R-CNN and"
    yield "RetinaNet, every parameter and FLOP figure, the training recipe."
