"""The results of runs: the costs of a network, and tables of results."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from flax import nnx
from rich.console import Console
from rich.table import Table

from aa_flax.drawing.summary import summarize
from aa_flax.json_values import to_json
from aa_flax.literal import literal, told_apart
from aa_flax.tasks.contract import is_table


def model_costs(model: nnx.Module) -> dict[str, int]:
    """Return parameters, and FLOPs of one image by our count and by the paper's."""
    summary = summarize(model)
    return {"params": summary.params, "flops": summary.flops, "paper_flops": summary.paper_flops}


def print_results(
    results: Sequence[Mapping[str, Any]],
    headline: str,
    fractions: Collection[str] = frozenset(),
    beside: Sequence[str] = (),
) -> None:
    """Print a table with a row for each run, a table for each score by name, and the last run as JSON.

    Args:
        results: the contents of each `result.json`, that of this run last.
        headline: the name of the score in the first table.
        fractions: names of scores between 0 and 1, which are printed in percent.
        beside: names of scores that have a column after the headline's, where a result has them.
    """
    console = Console(markup=False, emoji=False)  # names are data
    scores = [headline, *(name for name in beside if any(name in result for result in results))]
    console.print(_overview(results, scores, fractions))
    last = results[-1]
    by_name = [name for name, value in last.items() if is_table(value)]
    for name in by_name:
        console.print(_by_name(results, name, name in fractions))
    line = {name: value for name, value in last.items() if not isinstance(value, dict | list)}
    print(to_json(line), flush=True)


def _overview(results: Sequence[Mapping[str, Any]], scores: Sequence[str], fractions: Collection[str]) -> Table:
    table = Table(title=f"{literal(results[-1]['dataset'])}, {results[-1]['examples']:,} held-out images")
    table.add_column("model")
    for column in ("params", "GFLOPs", *(name.replace("_", " ") for name in scores), "images/s", "seconds"):
        table.add_column(column, justify="right")
    for result in results:
        rate = result["images_per_second"]
        table.add_row(
            literal(result["label"]),
            f"{result['params']:,}",
            f"{result['flops'] / 1e9:.4g}",
            *(_score(result.get(name), name in fractions) for name in scores),
            f"{rate:,.0f}" if rate else "-",
            f"{result['train_seconds']:.0f}",
        )
    return table


def _score(value: float | None, percent: bool) -> str:
    return "-" if value is None else f"{100 * value:.2f} %" if percent else f"{value:.4g}"


def _by_name(results: Sequence[Mapping[str, Any]], name: str, percent: bool) -> Table:
    table = Table(title=name.replace("_", " ") + ", %" * percent)
    table.add_column("", overflow="fold")
    for result in results:
        table.add_column(literal(result["label"]), justify="right")
    keys = list(results[-1][name])
    for key, words in zip(keys, told_apart(keys), strict=True):
        cells = [result.get(name, {}).get(key) for result in results]
        written = ("-" if cell is None else f"{100 * cell:.1f}" if percent else f"{cell:.4g}" for cell in cells)
        table.add_row(words, *written)
    return table
