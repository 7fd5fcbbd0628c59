"""Reports of finished runs of detectors: one JSON object, a table with intervals, and a picture of the curves."""

import itertools
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from aa_flax import data
from aa_flax.analysis.provenance import provenance
from aa_flax.drawing.saving import in_plain_style
from aa_flax.evaluation.coco_json import read_results
from aa_flax.evaluation.matching import Matches, match_all
from aa_flax.evaluation.paired import paired_bootstrap
from aa_flax.training import RunDirectory
from experiments.compare_report import curves, data_of, epochs_of, measured_by, origin_of

_KEPT = [*("params", "flops", "AP", "AP50", "AP75", "AP_small", "AP_medium", "AP_large", "AP_per_class", "loss")]
_KEPT += ["examples", "epochs", "train_seconds", "images_per_second", "jax"]


def collect(runs: Sequence[tuple[str, int, Path]], command: str) -> dict[str, Any]:
    """Return what the runs measured, and the paired intervals of the differences of the networks."""
    measured = measured_by(runs, _KEPT, ("AP", "AP50"))
    return {**provenance(command), "runs": measured, "differences": _differences(runs)}


def table(measured: dict[str, Any]) -> str:
    """Return a table with a row for each network, and the intervals of their differences."""
    runs = measured["runs"]
    lines = [
        "| network | parameters | AP, mean | AP50, mean | AP of each seed | seconds, median |",
        "|---|---|---|---|---|---|",
    ]
    for model in dict.fromkeys(run["model"] for run in runs):
        own = [run for run in runs if run["model"] == model]
        ap, ap50 = (statistics.mean(run[key] for run in own) for key in ("AP", "AP50"))
        seconds = statistics.median(run["train_seconds"] for run in own)
        each = ", ".join(f"{run['AP']:.3f}" for run in own)
        lines.append(f"| `{model}` | {own[0]['params']:,} | {ap:.3f} | {ap50:.3f} | {each} | {seconds:.0f} |")
    said = "; ".join(
        f"{each['first']} less {each['second']} {each['difference']:+.3f} ({each['low']:+.3f} to {each['high']:+.3f}, "
        f"seeds {', '.join(map(str, each['seeds']))})"
        for each in measured["differences"]
    )
    lines += [
        "",
        f"{data_of(runs)}, {epochs_of(runs[0])}, {runs[0]['examples']:,} held-out photographs, last epoch. "
        f"Differences of the means, with the interval of 95 % by resampling photographs: {said or 'none'}. "
        f"{origin_of(measured)}",
    ]
    return "\n".join(lines)


@in_plain_style
def draw(measured: dict[str, Any], file: Path) -> None:
    """Draw AP, AP50 and training loss over the epochs, a line for each run."""
    panels = (("held_out_AP", "AP, held out"), ("held_out_AP50", "AP50, held out"), ("training_loss", "training loss"))
    curves(measured, panels, file)


def _differences(runs: Sequence[tuple[str, int, Path]]) -> list[dict[str, Any]]:
    """Return the difference of AP of each two networks, the mean over the seeds, with its interval."""
    matches: dict[str, list[Matches]] = {}
    seeds = sorted({seed for _, seed, _ in runs})
    for model, _, folder in runs:
        matches.setdefault(model, []).append(_matches(folder))
    found = []
    for first, second in itertools.combinations(matches, 2):
        paired = paired_bootstrap(matches[second], matches[first], samples=1000)
        row = {"first": second, "second": first, "seeds": seeds, "difference": paired.difference}
        found.append({**row, "low": paired.low, "high": paired.high, "level": paired.level, "samples": 1000})
    return found


def _matches(folder: Path) -> Matches:
    """Return which detections of a run are right, from the file that it left."""
    config = RunDirectory(folder).read_config()
    dataset = data.load(config.data.name, data_dir=config.data.data_dir)
    truths = dataset.truths(config.data.eval_split)
    found = read_results((folder / "detections.json").read_text(), dataset.category_ids)
    return match_all(truths, found, dataset.num_classes)
