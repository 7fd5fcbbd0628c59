"""What the heads of some layers attend to from query pixels, as a picture."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from aa_flax.drawing.attention_maps import layer_name
from aa_flax.drawing.boxes import as_color
from aa_flax.drawing.saving import in_plain_style, saved

_INK = "#333333"
_SIDE, _NARROWEST, _LINE = 1.5, 1.15, 0.15
"""Inches of a panel's longer side, of the words above it at least, and of a line of these."""


@in_plain_style
def attention_figure(
    images: UInt8[np.ndarray, "b h w c"],
    titles: Sequence[str],
    maps: Mapping[str, Float[Any, "b n q ha wa"]],
    queries: Sequence[tuple[int, int]],
    file: Path | None = None,
    max_heads: int = 4,
    *,
    sizes: Sequence[tuple[int, int]] | None = None,
    query_titles: Sequence[str] | None = None,
) -> Figure:
    """Draw what each head of some layers attends to for some query pixels, as Figures 9 and 10 of Bello et al. (2019).

    Each image and query has a row: the image with the query marked, then, for each layer and head, the map over the
    image, scaled to its own largest weight. Of one image and one query each layer has a row.

    Args:
        images: pixels, 0 to 255.
        titles: words for each image.
        maps: the weights of each layer by its path, from `attention_maps` with the same `queries`.
        queries: (row, column) of each query pixel.
        file: the picture to write, if any.
        max_heads: how many heads of each layer to draw, the first ones.
        sizes: height and width of the part of each canvas, from its corner, that the photograph fills; None for all.
        query_titles: words for each query, which stand above its rows in the place of the image's.
    """
    heads = {path: range(min(m.shape[1], max_heads)) for path, m in maps.items()}
    panels = [(path, head) for path, some in heads.items() for head in some]
    shown = [(image, query) for image in range(len(images)) for query in range(len(queries))]
    by_layer = len(shown) == 1 and len(maps) > 1
    lines = [[(path, head) for head in some] for path, some in heads.items()] if by_layer else [panels] * len(shown)
    columns = 1 + max(map(len, lines))
    seen = list(sizes) if sizes is not None else [images.shape[1:3]] * len(images)
    height, width = max(h for h, _ in seen), max(w for _, w in seen)
    scale = _SIDE / max(height, width)
    words = _LINE * max(2, *(title.count("\n") + 1 for title in [*titles, *(query_titles or ())])) + 0.1
    titled = len(lines) if by_layer or query_titles else len(images)
    size = (
        columns * (max(width * scale, _NARROWEST) + 0.06) + 0.1,
        len(lines) * (height * scale + 0.06) + titled * words + 0.1,
    )
    figure = Figure(figsize=size, layout="constrained")
    grid = figure.subplots(len(lines), columns, squeeze=False)
    for number, (axes, line) in enumerate(zip(grid, lines, strict=True)):
        image, query = shown[0 if by_layer else number]
        photo = as_color(images[image])[: seen[image][0], : seen[image][1]]
        for place in axes:
            place.set_axis_off()
        if number == 0 or not by_layer:
            axes[0].imshow(photo)
            _mark(axes[0], queries[query])
            if query_titles or query == 0:
                title = query_titles[query] if query_titles else titles[image]
                axes[0].set_title(title, fontsize=8, color=_INK)
        for place, (path, head) in zip(axes[1:], line, strict=False):
            weights = np.asarray(maps[path][image, head, query], np.float32)
            place.imshow(photo.mean(-1), cmap="gray", alpha=0.55)
            extent = (-0.5, images.shape[2] - 0.5, images.shape[1] - 0.5, -0.5)
            place.imshow(weights / weights.max(), cmap="inferno", alpha=0.65, extent=extent, interpolation="bilinear")
            place.set_xlim(-0.5, photo.shape[1] - 0.5)
            place.set_ylim(photo.shape[0] - 0.5, -0.5)
            _mark(place, queries[query])
            if by_layer or (image == 0 and query == 0):
                place.set_title(f"{layer_name(path)}\nhead {head + 1}", fontsize=8, color=_INK)
    return saved(figure, file, 110)


def _mark(axes: Axes, query: tuple[int, int]) -> None:
    row, column = query
    axes.plot(column, row, marker="+", ms=9, mew=2, color="#39d0ff")
