"""Where attention pooling looks for the classes of a photograph, beside its label map."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, Float, UInt8
from matplotlib.figure import Figure

from aa_flax.drawing.boxes import as_color
from aa_flax.drawing.label_maps import overlay
from aa_flax.drawing.photo_attention import AttentionError
from aa_flax.drawing.pooling_figures import scaled_map
from aa_flax.drawing.saving import drawable_names, in_plain_style, saved
from aa_flax.drawing.trace import watched

_INK = "#333333"
_COLUMNS = 4
_SIDE = 2.4
"""Inches of a panel's longer side."""


class SegmentPooling:
    """What the attention pooling of a segmentation network's presence head gives for photographs.

    It is compiled once for each size of canvas.
    """

    def __init__(self, model: nnx.Module) -> None:
        """Prepare a network, whose running statistics are used.

        Raises:
            AttentionError: it has no presence head.
        """
        if getattr(model, "presence_head", None) is None:
            raise AttentionError(
                f"--attention: this {type(model).__name__} has no attention pooling to draw; segmentation networks "
                "with presence_head=True have"
            )
        graph, self._state = nnx.split(model)

        @jax.jit
        def found(state: Any, image: Array) -> tuple[Array, Array]:
            merged: Any = nnx.merge(graph, state, copy=True)
            weights: list[Array] = []

            def look(path: str, module: Any, arguments: tuple) -> None:
                if path == "pooling":
                    weights.append(module.attention_weights(arguments[0])[0, 0])

            with watched(merged, look):
                presence = merged.outputs(image[None], train=False)["presence"]
            return weights[0], jax.nn.sigmoid(presence[0])

        self._found = found

    def __call__(
        self, image: Float[Array, "h w c"]
    ) -> tuple[Float[np.ndarray, "classes ha wa"], Float[np.ndarray, " classes"]]:
        """Return the weights of each class's token over the map, and the probability that the class occurs.

        Args:
            image: normalised, on its canvas.
        """
        weights, probabilities = self._found(self._state, image)
        return np.asarray(weights), np.asarray(probabilities)


def draw_segment_pooling(
    pooling: SegmentPooling,
    image: Float[Array, "h w c"],
    pixels: UInt8[np.ndarray, "h w c"],
    labels: UInt8[np.ndarray, "hs ws"],
    class_names: Sequence[str],
    colors: UInt8[np.ndarray, "256 3"],
    *,
    most: int = 10,
    file: Path | None = None,
) -> Figure:
    """Draw the picture of `segment_pooling_figure` for a photograph.

    Args:
        pooling: of the network.
        image: normalised, on its canvas.
        pixels, labels, class_names, colors, most, file: as there.
    """
    return segment_pooling_figure(pixels, labels, *pooling(image), class_names, colors, most=most, file=file)


@in_plain_style
def segment_pooling_figure(
    pixels: UInt8[np.ndarray, "h w c"],
    labels: UInt8[np.ndarray, "hs ws"],
    weights: Float[np.ndarray, "classes ha wa"],
    probabilities: Float[np.ndarray, " classes"],
    class_names: Sequence[str],
    colors: UInt8[np.ndarray, "256 3"],
    *,
    most: int = 10,
    file: Path | None = None,
) -> Figure:
    """Draw a photograph, its label map, and where attention pooling looks for each class of the label map.

    For each of the largest classes there is a panel in the class's colour: the photograph multiplied by the map of the
    class's token, scaled to its own least and largest weight, and the border of the class's segment. Above stands the
    probability that the class occurs, as the pooling has it. Below stand the part of the attention that lies on the
    segment, and in brackets that of even attention, so that a map that shows nothing is seen to show nothing.

    Args:
        pixels: of the canvas, 0 to 255.
        labels: the class of each pixel of the part of the canvas that the photograph fills, from its corner on.
        weights: of each class's token over a map of the whole canvas.
        probabilities: that each class occurs.
        class_names: of every class.
        colors: of each label, see `label_colors`.
        most: how many classes to draw at most, those with the most pixels.
        file: the PNG to write, if any.
    """
    height, width = labels.shape
    photo = as_color(pixels)[:height, :width]
    counts = np.bincount(labels.reshape(-1), minlength=len(class_names))[: len(class_names)]
    chosen = [int(k) for k in np.argsort(-counts, kind="stable")[:most] if counts[k]]
    columns = min(_COLUMNS, 2 + len(chosen))
    rows = math.ceil((2 + len(chosen)) / columns)
    wide, tall = _SIDE * min(1.0, width / height), _SIDE * min(1.0, height / width)
    figure = Figure(figsize=(columns * (max(wide, 1.9) + 0.1), rows * (tall + 0.55)), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False).reshape(-1)
    names = drawable_names(class_names)
    for axes in panels:
        axes.set_axis_off()
    panels[0].imshow(photo)
    panels[0].set_title("photograph", fontsize=8, color=_INK)
    panels[1].imshow(overlay(photo, labels, colors, 0.6))
    panels[1].set_title("label map", fontsize=8, color=_INK)
    for axes, k in zip(panels[2:], chosen, strict=False):
        segment = labels == k
        large = scaled_map(weights[k], (pixels.shape[0], pixels.shape[1]))[:height, :width]
        axes.set_axis_on()
        axes.imshow(photo / 255 * (0.15 + 0.85 * large[..., None]))
        color = tuple(colors[k] / 255)
        axes.contour(segment, levels=[0.5], colors=[color], linewidths=1.0)
        axes.set_title(f"{names[k]}: occurs {100 * probabilities[k]:.1f} %", fontsize=8, color=_INK)
        within, even = attention_on(segment, weights[k], (pixels.shape[0], pixels.shape[1]))
        axes.set_xlabel(f"{100 * within:.1f} % on the segment ({100 * even:.1f} %)", fontsize=7, color=_INK)
        axes.set(xticks=[], yticks=[])
        for spine in axes.spines.values():
            spine.set(visible=True, color=color, linewidth=3)
    return saved(figure, file, 110)


def attention_on(
    segment: Bool[np.ndarray, "h w"], weights: Float[np.ndarray, "ha wa"], canvas: tuple[int, int]
) -> tuple[float, float]:
    """Return the part of some attention that lies on a segment, and the part if the attention were even.

    The weight of a position is spread evenly over the pixels of the canvas for which it stands.

    Args:
        segment: the pixels of a photograph that fills the canvas from its corner on.
        weights: over a map of the canvas.
        canvas: its height and width.
    """
    rows, columns = (_shares(size, count) for size, count in zip(canvas, weights.shape, strict=True))
    height, width = segment.shape
    covered = rows[:, :height] @ segment.astype(np.float64) @ columns[:, :width].T
    return float((weights * covered).sum() / weights.sum()), float(covered.mean())


def _shares(size: int, count: int) -> Float[np.ndarray, "count size"]:
    """Return for each of `count` positions along a side the part of it that each pixel covers; rows sum to one."""
    edges = np.arange(count + 1) * size / count
    pixels = np.arange(size)
    overlap = np.minimum(edges[1:, None], pixels + 1) - np.maximum(edges[:-1, None], pixels)
    return np.maximum(overlap, 0) * count / size
