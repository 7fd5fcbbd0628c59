"""Reports of finished runs: one JSON object, a table, and a picture of the curves."""

import json
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from aa_flax.analysis.provenance import provenance
from aa_flax.drawing.saving import in_plain_style
from aa_flax.json_values import to_json
from aa_flax.training import RunDirectory, read_metrics

COLORS = ("#4c6a92", "#c08a2e", "#b3322c", "#6b4c92", "#3f8f5f", "#8c8c8c", "#2ea3c0", "#c02e8a")


def commit_file(folder: Path) -> Path:
    """Return where the commit that began a run is written: beside its directory, which takes no foreign files."""
    return folder.with_name(f"{folder.name}.commit")


def collect(runs: Sequence[tuple[str, int, Path]], command: str) -> dict[str, Any]:
    """Return what the runs measured: the result of each, its held-out accuracies and its training losses.

    Runs of five classes or fewer, and those of versions before it was measured, have no "top5_accuracy".
    """
    kept = ("params", "flops", "accuracy", "loss", "examples", "epochs", "jax")
    return {**provenance(command), "runs": measured_by(runs, kept, ("accuracy", "loss"), also=("top5_accuracy",))}


def measured_by(
    runs: Sequence[tuple[str, int, Path]], kept: Sequence[str], held_out: Sequence[str], also: Sequence[str] = ()
) -> list[dict[str, Any]]:
    """Return of each run what is `kept` of its result, its curves of `held_out` scores, and its training losses.

    Args:
        runs: name of the network, seed and run directory of each.
        kept: names in the result.
        held_out: names of scores, whose values at each evaluation are "held_out_NAME".
        also: names of scores that are both where a run has them.
    """
    measured = []
    for model, seed, folder in runs:
        directory = RunDirectory(folder)
        result = directory.read_result()
        assert result is not None, f"{folder} is not finished"
        rows = read_metrics(folder / "metrics.jsonl")
        scored = [row for row in rows if row["split"] == "eval"]
        measured_also = [name for name in also if _in_all([result, *scored], name)]
        config = directory.read_config()
        measured.append(
            {
                "model": model,
                "seed": seed,
                "commit": commit_file(folder).read_text().strip(),
                **{key: result[key] for key in (*kept, *measured_also)},
                **{f"held_out_{name}": [row[name] for row in scored] for name in (*held_out, *measured_also)},
                "held_out_epoch": [row["epoch"] for row in scored],
                "training_loss": pieces([row for row in rows if row["split"] == "train"]),
                "data": config.data.name,
                "side": config.data.image_size,
            }
        )
    return measured


def _in_all(rows: Sequence[dict[str, Any]], name: str) -> bool:
    return all(name in row for row in rows)


def added(stored: dict[str, Any], measured: dict[str, Any]) -> dict[str, Any]:
    """Return what was measured together with what is stored of other networks and seeds.

    The origin of the stored rows goes into the list "earlier". Intervals of differences hold for the seeds that one
    command compared, which is why those of other seeds stay beside the new ones.

    Raises:
        ValueError: rows of one network differ in what must be equal, such as its parameters or the epochs.
    """
    measured = json.loads(to_json(measured))  # in the form of what is stored, with lists for tuples
    new = {(run["model"], run["seed"]) for run in measured["runs"]}
    kept = [run for run in stored["runs"] if (run["model"], run["seed"]) not in new]
    for run in kept:
        for other in measured["runs"]:
            of_one_network = ("params", "side") if run["model"] == other["model"] else ()
            for key in ("data", "epochs", "examples", *of_one_network):
                if run[key] != other[key]:
                    raise ValueError(
                        f"{run['model']}, seed {run['seed']}, is stored with {key} {run[key]}, {other['model']}, "
                        f"seed {other['seed']}, has {other[key]}: not one table"
                    )
    models = list(dict.fromkeys(run["model"] for run in stored["runs"] + measured["runs"]))
    runs = sorted(kept + measured["runs"], key=lambda run: (run["seed"], models.index(run["model"])))
    differences = measured.get("differences", [])
    compared = [_compared(each) for each in differences]
    differences = [each for each in stored.get("differences", []) if _compared(each) not in compared] + differences
    origin = {key: stored[key] for key in stored if key not in ("runs", "differences", "earlier")}
    return {
        **measured,
        "earlier": [*stored.get("earlier", []), *([origin] if kept else [])],
        "runs": runs,
        **({"differences": differences} if differences else {}),
    }


def _compared(difference: dict[str, Any]) -> tuple[str, str, tuple[int, ...]]:
    return difference["first"], difference["second"], tuple(difference["seeds"])


def origin_of(measured: dict[str, Any]) -> str:
    """Return dates, machine, version, commits and commands of all rows, in a sentence."""
    origins, runs = [*measured.get("earlier", []), measured], measured["runs"]

    def all_of(values: Iterable[str]) -> str:
        return " and ".join(dict.fromkeys(values))

    return (
        f"{all_of(each['date'] for each in origins)}, {all_of(str(each['cores']) for each in origins)} cores of a CPU, "
        f"jax {all_of(run['jax'] for run in runs)}, commit {all_of(run['commit'][:7] for run in runs)}; "
        f"{all_of('`' + each['command'] + '`' for each in origins)}."
    )


def table(measured: dict[str, Any]) -> str:
    """Return a table with a row for each model: cost, mean accuracy and each seed's; then the noise of one accuracy.

    Where all runs have a top-5 accuracy, its mean over the seeds has a column.

    It has no times, because other work may have used the machine during the runs.
    """
    runs = measured["runs"]
    examples = runs[0]["examples"]
    with_top5 = _in_all(runs, "top5_accuracy")
    columns = ["model", "parameters", "GFLOPs", "top-1, mean", "each seed", *["top-5, mean"] * with_top5]
    lines = [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    for model in dict.fromkeys(run["model"] for run in runs):
        own = [run for run in runs if run["model"] == model]
        accuracies = [100 * run["accuracy"] for run in own]
        top5 = f" {100 * statistics.mean(run['top5_accuracy'] for run in own):.2f} % |" if with_top5 else ""
        lines.append(
            f"| `{model}` | {own[0]['params']:,} | {own[0]['flops'] / 1e9:.3f} | "
            f"{statistics.mean(accuracies):.2f} % | {', '.join(f'{a:.2f}' for a in accuracies)} |{top5}"
        )
    mean = statistics.mean(run["accuracy"] for run in runs)
    error = 100 * (mean * (1 - mean) / examples) ** 0.5
    lines += [
        "",
        f"{data_of(runs)}, {epochs_of(runs[0])}, {examples:,} held-out images, last epoch, whichever wins. "
        f"The standard error of one such accuracy is {error:.2f} %. {origin_of(measured)}",
    ]
    return "\n".join(lines)


@in_plain_style
def draw(measured: dict[str, Any], file: Path) -> None:
    """Draw held-out accuracy and training loss over the epochs, a line for each run."""
    curves(measured, (("held_out_accuracy", "held-out accuracy"), ("training_loss", "training loss (nats)")), file)


def curves(measured: dict[str, Any], panels: Sequence[tuple[str, str]], file: Path) -> None:
    """Draw values of the runs over the epochs, a panel for each (key, title); keys of scores begin with "held"."""
    figure = Figure(figsize=(4.5 * len(panels), 3.4), layout="constrained")
    colors = dict(zip(dict.fromkeys(run["model"] for run in measured["runs"]), COLORS * 9, strict=False))
    for axes, (key, title) in zip(figure.subplots(1, len(panels)), panels, strict=True):
        labelled = set()
        for run in measured["runs"]:
            model = run["model"]
            label = None if model in labelled else model
            labelled.add(model)
            values = run[key]
            epochs = run["held_out_epoch"] if key.startswith("held") else [e for e, _ in values]
            values = values if key.startswith("held") else [loss for _, loss in values]
            marker = "o" if key.startswith("held") else None  # a short run has one of these
            axes.plot(epochs, values, color=colors[model], lw=1.3, marker=marker, ms=4, alpha=0.85, label=label)
        axes.set_title(title, loc="left", fontsize=10, color="#333333")
        axes.set_xlabel("epoch")
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="y", alpha=0.25)
        axes.legend(frameon=False, fontsize=9)
    figure.savefig(file, dpi=110)


def epochs_of(run: dict[str, Any]) -> str:
    return f"{run['epochs']} epoch{'s' * (run['epochs'] > 1)}"


def data_of(runs: Sequence[dict[str, Any]]) -> str:
    """Return the data of runs and the size of their images, that of each network where they differ."""
    models: dict[str, list[str]] = {}
    for run in runs:
        side = run["side"]
        size = side if isinstance(side, list | tuple) else (side, side)
        names = models.setdefault(f"{size[0]}×{size[1]}" if side else "", [])
        names += [] if run["model"] in names else [run["model"]]
    if len(models) == 1:
        (size_of_all,) = models
        return f"{runs[0]['data']} at {size_of_all}" if size_of_all else runs[0]["data"]
    return f"{runs[0]['data']} at {_listed(models)}"


def _listed(models: Mapping[str, Sequence[str]]) -> str:
    return ", ".join(f"{size} ({', '.join(names)})" for size, names in models.items())


def pieces(rows: Sequence[dict[str, Any]], count: int = 30) -> list[tuple[float, float]]:
    """Return at most `count` pairs of an epoch and the mean loss of the log windows up to it."""
    size = max(1, math.ceil(len(rows) / count))
    pieces = [rows[i : i + size] for i in range(0, len(rows), size)]
    return [(piece[-1]["epoch"], statistics.mean(row["loss"] for row in piece)) for piece in pieces]
