"""The summary of a run as text, made from the files that the parts have written."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from experiments.benchmarks.gpu import record
from experiments.benchmarks.gpu.runner import Outcome

_LAST = 2000  # characters of the log of a part that did not end well


def text(folder: Path, outcomes: list[Outcome], command: str, log: Path) -> str:
    """Return the summary in Markdown."""
    lines = ["# A GPU at hand", "", f"`{command}`", ""]
    origin = record.read(folder / "env.json")
    if origin:
        versions = ", ".join(f"{name} {version}" for name, version in origin.get("versions", {}).items())
        lines += [f"{origin.get('device')}, commit {origin.get('commit')}, {origin.get('date')}, {versions}", ""]
    lines += ["| part | | limit s | took s | |", "|---|---|---|---|---|"]
    lines += [f"| {o.name} | {o.status} | {o.limit:.0f} | {o.seconds:.0f} | {o.line} |" for o in outcomes]
    for file, section in _SECTIONS.items():
        result = record.read(folder / file)
        shown = section(result) if result else []
        lines += ["", f"## {file}", *shown] if shown else []
    if log.exists() and any(outcome.status != "done" for outcome in outcomes):
        lines += ["", "## The end of the log", "```", log.read_text(errors="replace")[-_LAST:].strip(), "```"]
    return "\n".join(lines) + "\n"


def _env(result: dict[str, Any]) -> list[str]:
    wanted = ("copy_bytes_per_second", "bfloat16_product_flops_per_second", "driver")
    return [f"* {name}: {_short(result[name])}" for name in wanted if name in result]


def _correct(result: dict[str, Any]) -> list[str]:
    from experiments.benchmarks.gpu.correct import table

    return ["```", table(result.get("rows", [])), "```"]


def _rows(*columns: str) -> Callable[[dict[str, Any]], list[str]]:
    def shown(result: dict[str, Any]) -> list[str]:
        rows = result.get("rows", [])
        if not rows:
            return []
        head = [f"| {' | '.join(columns)} |", f"|{'---|' * len(columns)}"]
        return head + [f"| {' | '.join(_short(row.get(column, '')) for column in columns)} |" for row in rows]

    return shown


def _profile(result: dict[str, Any]) -> list[str]:
    return [
        f"* {row['milliseconds']:.3f} ms, {row['calls']}×: `{row['name'][:90]}`" for row in result.get("kernels", [])
    ]


def _extra(result: dict[str, Any]) -> list[str]:
    tests = result.get("tests", {})
    lines = [f"* tests: {tests['passed']} passed, {len(tests['skipped'])} skipped"] if "passed" in tests else []
    lines += [f"* failed: {line}" for line in tests.get("failed", [])]
    attention = _rows("map", "implementation", "forward_ms", "forward_backward_ms")(result.get("pytorch", {}))
    runs = _rows("data", "model", "seed", "epochs", "accuracy", "seconds")(result.get("training", {}))
    launch = ("map", "tiles", "warps", "stages", "group", "chosen")
    tiles = _rows(*launch, "forward_ms", "forward_backward_ms", "not_measured")(result.get("tiles", {}))
    return [line for block in (lines, tiles, attention, runs) if block for line in ("", *block)]


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else "-" if value is None else str(value)


_SECTIONS: dict[str, Callable[[dict[str, Any]], list[str]]] = {
    "env.json": _env,
    "correct.json": _correct,
    "attention.json": _rows(
        *("map", "value_depth_per_head", "batch", "implementation", "forward_ms", "forward_backward_ms"),
        *("forward_device_ms", "forward_backward_device_ms"),
    ),
    "steps.json": _rows("label", "batch", "train_ms", "train_images_per_second", "train_ratio", "not_measured"),
    "timm.json": _rows("label", "batch", "train_ms", "train_images_per_second", "not_measured"),
    "profile.json": _profile,
    "extra.json": _extra,
}
