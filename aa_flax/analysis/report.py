"""The end of a run: its result, its pictures and its table."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import nnx
from jaxtyping import UInt8
from rich.console import Console
from rich.table import Table

from aa_flax.drawing.attention_maps import attending_paths, attention_maps, last_of_each_stage
from aa_flax.drawing.plots import attention_figure
from aa_flax.drawing.pooling_figures import pooling_figure
from aa_flax.drawing.summary import summarize

_NOT_ON_THE_LAST_LINE = ("confusion", "accuracy_per_class")


def model_costs(model: nnx.Module) -> dict[str, int]:
    """Parameters, and FLOPs of one image by our count and by the paper's."""
    summary = summarize(model)
    return {"params": summary.params, "flops": summary.flops, "paper_flops": summary.paper_flops}


def draw_attention(
    model: nnx.Module,
    normalized: jax.Array,
    pixels: UInt8[np.ndarray, "b h w c"],
    titles: Sequence[str],
    file: Path,
    class_names: Sequence[str] = (),
) -> bool:
    """Draw the last attending layer of each stage for two query pixels an image; False if nothing attends.

    What attention pooling looks at goes to `file` where nothing else attends, and otherwise beside it, to a name that
    ends in _pooling; there `class_names` are the names of the classes, or their numbers are.
    """
    attending, poolings = attending_paths(model)
    if attending:
        height, width = pixels.shape[1:3]
        queries = [(height // 4, width // 2), (height // 2, width // 2)]
        maps = attention_maps(model, normalized, layers=last_of_each_stage(attending), queries=queries)
        attention_figure(pixels, titles, maps, queries, file)
        file = file.with_stem(f"{file.stem}_pooling")
    if poolings:
        draw_pooling(model, normalized, pixels, titles, class_names, file)
    return bool(attending or poolings)


def draw_pooling(
    model: nnx.Module,
    normalized: jax.Array,
    pixels: UInt8[np.ndarray, "b h w c"],
    titles: Sequence[str],
    class_names: Sequence[str],
    file: Path,
) -> None:
    """Draw what the tokens of a network with attention pooling look at in some images."""
    _, (path, *_) = attending_paths(model)
    graph, state = nnx.split(model)

    @jax.jit
    def probabilities(state: Any, images: Any) -> jax.Array:
        merged: Any = nnx.merge(graph, state, copy=True)
        return jax.nn.softmax(merged(images).astype(jax.numpy.float32))

    scores = probabilities(state, normalized)
    names = class_names or [f"class {k}" for k in range(scores.shape[-1])]
    weights = attention_maps(model, normalized, layers=path)[path][:, 0]
    pooling_figure(pixels, weights, scores, names, titles=titles, file=file)


def print_results(results: Sequence[Mapping[str, Any]]) -> None:
    """A table with a row a run, the accuracy of each class, and the last run as one line of JSON at the very end."""
    console = Console()
    console.print(_overview(results))
    console.print(_per_class(results))
    line = {name: value for name, value in results[-1].items() if name not in _NOT_ON_THE_LAST_LINE}
    print(json.dumps(line), flush=True)


def _overview(results: Sequence[Mapping[str, Any]]) -> Table:
    table = Table(title=f"{results[-1]['dataset']}, {results[-1]['examples']:,} held-out images")
    table.add_column("model")
    for column in ("params", "GFLOPs", "accuracy", "images/s", "seconds"):
        table.add_column(column, justify="right")
    for result in results:
        rate = result["images_per_second"]
        table.add_row(
            result["label"],
            f"{result['params']:,}",
            f"{result['flops'] / 1e9:.4g}",
            f"{100 * result['accuracy']:.2f} %",
            f"{rate:,.0f}" if rate else "-",
            f"{result['train_seconds']:.0f}",
        )
    return table


def _per_class(results: Sequence[Mapping[str, Any]]) -> Table:
    table = Table(title="accuracy by class, %")
    table.add_column("class")
    for result in results:
        table.add_column(result["label"], justify="right")
    for name in results[-1]["accuracy_per_class"]:
        cells = [result["accuracy_per_class"].get(name) for result in results]
        table.add_row(name, *("-" if cell is None else f"{100 * cell:.1f}" for cell in cells))
    return table
