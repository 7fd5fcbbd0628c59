"""Pictures of the benchmarks' results."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

INK = "#333333"
COLORS = {
    "reference": "#c9ccd1",
    "paper": "#8a8f98",
    "folded": "#b3322c",
    "folded_pieces": "#5b8c3a",
    "cudnn": "#e0803a",
    "pallas_gpu": "#3a8c86",
    "pallas_tpu": "#7a1f5c",
    "pytorch_einsum": "#a9c3e0",
    "pytorch_matmul": "#6d97c4",
    "pytorch_sdpa_bias": "#33608f",
    "pytorch_flex": "#1d3550",
}
_PASSES = {"forward": "forward", "forward_backward": "forward and backward"}


def attention(result: Mapping[str, Any], file: Path) -> None:
    """Draw milliseconds of each implementation by shape, one panel for each pass, logarithmic."""
    shapes = list(dict.fromkeys(_shape(row) for row in result["rows"]))
    names = [name for name in COLORS if any(row["implementation"] == name for row in result["rows"])]
    figure = Figure(figsize=(11, 6.4), layout="constrained")
    for axes, (name, title) in zip(figure.subplots(2, 1), _PASSES.items(), strict=True):
        for index, implementation in enumerate(names):
            own = {_shape(r): r[f"{name}_ms"] for r in result["rows"] if r["implementation"] == implementation}
            bars = [(i, own[shape]) for i, shape in enumerate(shapes) if own.get(shape) is not None]
            width = 0.84 / len(names)
            places = [i + (index - (len(names) - 1) / 2) * width for i, _ in bars]
            axes.bar(places, [ms for _, ms in bars], width, color=COLORS[implementation], label=implementation)
        axes.set_yscale("log")
        axes.set_xticks(range(len(shapes)), shapes, fontsize=7)
        _plain(axes, f"{title}, ms")
    figure.axes[0].legend(frameon=False, fontsize=8, ncols=5)
    figure.suptitle(_where(result), fontsize=9, color=INK)
    figure.savefig(file, dpi=110)


def layer(result: Mapping[str, Any], file: Path) -> None:
    """Draw milliseconds of our layer and of PyTorch's by part, a panel for each layer and pass."""
    figure = Figure(figsize=(10, 6), layout="constrained")
    grid = figure.subplots(len(result["summary"]), 2, squeeze=False)
    for line, (size, parts) in zip(grid, result["summary"].items(), strict=True):
        for axes, (name, title) in zip(line, _PASSES.items(), strict=True):
            for offset, key, label, color in (
                (-0.2, "aa_flax_ms", "aa_flax", COLORS["folded"]),
                (0.2, "pytorch_ms", "PyTorch, its fastest variant", COLORS["pytorch_matmul"]),
            ):
                shown = [part for part in parts if name in parts[part]]
                bars = [(i, parts[part][name][key]) for i, part in enumerate(shown) if key in parts[part][name]]
                axes.bar([i + offset for i, _ in bars], [ms for _, ms in bars], 0.38, color=color, label=label)
                axes.set_xticks(range(len(shown)), [part.replace(" by ", "\nby ") for part in shown], fontsize=7)
            _plain(axes, f"{size}: {title}, ms")
    grid[0][0].legend(frameon=False, fontsize=8)
    figure.suptitle(_where(result), fontsize=9, color=INK)
    figure.savefig(file, dpi=110)


def train_step(result: Mapping[str, Any], file: Path) -> None:
    """Draw each network's times of training step and inference as ratios to ResNet-50, the paper's ratios as points."""
    rows = result["rows"]
    figure = Figure(figsize=(10, 3.8), layout="constrained")
    for axes, (key, title) in zip(
        figure.subplots(1, 2), {"train": "training step", "infer": "inference"}.items(), strict=True
    ):
        axes.bar(range(len(rows)), [row[f"{key}_ratio"] for row in rows], 0.6, color=COLORS["folded"], label="here")
        printed = [(i, row[f"paper_{key}_ratio"]) for i, row in enumerate(rows) if row[f"paper_{key}_ratio"]]
        axes.plot(*zip(*printed, strict=True), "D", color=INK, ms=5, label="paper, one V100")
        axes.axhline(1, color=INK, lw=0.8, alpha=0.5)
        axes.set_xticks(range(len(rows)), [row["label"] for row in rows], rotation=35, ha="right", fontsize=7)
        _plain(axes, f"{title}, time as a multiple of ResNet-50's")
        axes.legend(frameon=False, fontsize=8)
    figure.suptitle(f"{_where(result)}; batch {result['batch']} at {result['image_size']}²", fontsize=9, color=INK)
    figure.savefig(file, dpi=110)


def memory(result: Mapping[str, Any], file: Path) -> None:
    """Draw temporary memory and bytes moved per image by h·w on a v5e; hollow points are more than the chip has."""
    figure = Figure(figsize=(10, 4), layout="constrained")
    panels = {"temporary_bytes_all_in_hbm": "temporary memory", "bytes_moved": "memory traffic"}
    for axes, (key, title) in zip(figure.subplots(1, 2), panels.items(), strict=True):
        _growth(axes, result, key, {"folded": 2, "pallas_tpu": 1})
        _plain(axes, f"{title}, MB per image")
    figure.axes[0].legend(frameon=False, fontsize=8)
    title = f"attention with its projections and gradients, {result['dtype']}, compiled for {result['device']}"
    figure.suptitle(f"{title}: counts, not timings", fontsize=9, color=INK)
    figure.savefig(file, dpi=110)


def memory_here(result: Mapping[str, Any], file: Path) -> None:
    """Draw temporary memory per image by h·w on this machine."""
    figure = Figure(figsize=(5.4, 4), layout="constrained")
    axes = figure.subplots()
    _growth(axes, result, "temporary_bytes", {"paper": 2, "folded_pieces": 1})
    _plain(axes, "temporary memory with gradients, MB per image")
    axes.legend(frameon=False, fontsize=8)
    figure.suptitle(f"{_where(result)}: counts, not timings", fontsize=9, color=INK)
    figure.savefig(file, dpi=110)


def _growth(axes: Any, result: Mapping[str, Any], key: str, powers: Mapping[str, int]) -> None:
    """Draw MB per image of each implementation on logarithmic axes, and powers of h·w through some last points."""
    rows, batch = result["scaling"], result["batch"]
    for implementation in dict.fromkeys(row["implementation"] for row in rows):
        own = [row for row in rows if row["implementation"] == implementation]
        color = COLORS[implementation]
        fitting = [(row["places"], row[key] / batch / 1e6) for row in own if row["fits"]]
        axes.plot(*zip(*fitting, strict=True), "o-", color=color, ms=4, lw=1.5, label=implementation)
        for row in own:
            if not row["fits"] and key.startswith("temporary"):
                axes.plot(row["places"], row["temporary_bytes"] / batch / 1e6, "o", color=color, ms=5, mfc="none")
        if power := powers.get(implementation):
            x1, y1 = fitting[-1]
            places = [row["places"] for row in own]
            label = "∝ h·w" if power == 1 else "∝ (h·w)²"
            axes.plot(places, [y1 * (x / x1) ** power for x in places], ":", color=color, lw=1, label=label)
    axes.set_xscale("log")
    axes.set_yscale("log")
    sides = dict.fromkeys(row["side"] for row in rows)
    axes.set_xticks([side**2 for side in sides], [f"{side}²" for side in sides])
    axes.set_xticks([], minor=True)
    axes.set_xlabel("positions of the map, h·w", fontsize=8)


def _shape(row: Mapping[str, Any]) -> str:
    return f"{row['network'].removeprefix('aa_')}\n{row['map']}, dv {row['value_depth_per_head']}, b {row['batch']}"


def _where(result: Mapping[str, Any]) -> str:
    device = result["cpu"] if result["device"] == "cpu" else result["device"]
    cores = f", {result['cores']} cores" if result["device"] == "cpu" else ""
    versions = f"jax {result['versions']['jax']}"
    if isinstance(result.get("pytorch"), dict):
        versions += f", PyTorch {result['pytorch']['version']}"
    return f"{device}{cores}, {result['dtype']}, {versions}, {result['date']}"


def _plain(axes: Any, title: str) -> None:
    axes.set_title(title, loc="left", fontsize=9, color=INK)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", alpha=0.25)
    axes.tick_params(labelsize=7)
