"""Reports of finished runs of segmentation networks: one JSON object, two tables, and a picture of the curves."""

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from aa_flax.analysis.provenance import provenance
from aa_flax.drawing.saving import in_plain_style
from experiments.compare_report import curves, data_of, epochs_of, measured_by, origin_of

_SCORES = ("mIoU", "mean_accuracy", "pixel_accuracy", "loss")
_KEPT = (
    "params",
    "flops",
    *_SCORES,
    "IoU_per_class",
    "examples",
    "epochs",
    "train_seconds",
    "images_per_second",
    "jax",
)


def collect(runs: Sequence[tuple[str, int, Path]], command: str) -> dict[str, Any]:
    """Return what the runs measured."""
    return {**provenance(command), "runs": measured_by(runs, _KEPT, ("mIoU", "pixel_accuracy"))}


def table(measured: dict[str, Any]) -> str:
    """Return a table with a row for each network, and one with the IoU of each class, means over the seeds."""
    runs = measured["runs"]
    models = list(dict.fromkeys(run["model"] for run in runs))
    own = {model: [run for run in runs if run["model"] == model] for model in models}
    lines = [
        "| network | parameters | GFLOPs | mIoU, mean | mIoU of each seed | pixel accuracy, mean | seconds, median |",
        "|---|---|---|---|---|---|---|",
    ]
    for model, some in own.items():
        mean, pixels = (statistics.mean(run[key] for run in some) for key in ("mIoU", "pixel_accuracy"))
        seconds = statistics.median(run["train_seconds"] for run in some)
        each = ", ".join(f"{run['mIoU']:.3f}" for run in some)
        cost = f"{some[0]['params']:,} | {some[0]['flops'] / 1e9:.3f}"
        lines.append(f"| `{model}` | {cost} | {mean:.3f} | {each} | {pixels:.3f} | {seconds:.0f} |")
    lines += ["", f"| IoU | {' | '.join(f'`{model}`' for model in models)} |", "|---" * (1 + len(models)) + "|"]
    for name in runs[0]["IoU_per_class"]:
        by_model = ([run["IoU_per_class"][name] for run in some] for some in own.values())
        cells = ("-" if None in values else f"{statistics.mean(values):.3f}" for values in by_model)
        lines.append(f"| {name} | {' | '.join(cells)} |")
    lines += [
        "",
        f"{data_of(runs)}, {epochs_of(runs[0])}, {runs[0]['examples']:,} held-out photographs, last epoch. "
        f"{origin_of(measured)}",
    ]
    return "\n".join(lines)


@in_plain_style
def draw(measured: dict[str, Any], file: Path) -> None:
    """Draw mIoU, pixel accuracy and training loss over the epochs, a line for each run."""
    held_out = (("held_out_mIoU", "mIoU, held out"), ("held_out_pixel_accuracy", "pixel accuracy, held out"))
    curves(measured, (*held_out, ("training_loss", "training loss")), file)
