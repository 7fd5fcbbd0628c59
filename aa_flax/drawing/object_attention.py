"""What the objects that a detector found attend to in its backbone."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int, UInt8
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from aa_flax.drawing.attention_maps import attending_paths, last_of_each_stage
from aa_flax.drawing.boxes import as_color, boxes_on, class_color, outline
from aa_flax.drawing.photo_attention import AttentionError
from aa_flax.drawing.saving import in_plain_style, saved
from aa_flax.drawing.trace import module_paths, watched

_INK = "#333333"
_AT_ONCE = 256
"""Queries whose maps are computed together; always so many, so that nothing is compiled anew for another box."""


class ObjectAttention:
    """What objects of photographs attend to in a network; it is compiled once for each size of canvas.

    An object's map in a layer is the mean, over the positions inside its box on the map on which the layer attends, of
    the weights that these positions give to all positions.

    Attributes:
        layers: the dotted paths of the layers, in the order of the network.
    """

    def __init__(self, model: nnx.Module, layers: Sequence[str] | None = None) -> None:
        """Prepare a network, whose running statistics are used.

        Args:
            model: a network of the library, with attention in itself or in its backbone.
            layers: dotted paths of attending layers; None for the last of each stage.

        Raises:
            AttentionError: the network has no attention of positions to positions.
            ValueError: a layer does not exist or does not attend.
        """
        attending, _ = attending_paths(model)
        if not attending:
            raise AttentionError(
                f"--attention: this {type(model).__name__} has no attention to draw; detectors on a backbone aa_* have"
            )
        self.layers = list(layers) if layers is not None else last_of_each_stage(attending)
        if strange := [path for path in self.layers if path not in attending]:
            raise ValueError(f"layers: {strange[0]!r} does not attend; attending layers: {', '.join(attending)}")
        graph, state = nnx.split(model)
        wanted = set(self.layers)

        def inputs(state: Any, images: Array) -> dict[str, Array]:
            merged: Any = nnx.merge(graph, state, copy=True)
            merged.eval()
            found: dict[str, Array] = {}

            def look(path: str, module: Any, arguments: tuple) -> None:
                if path in wanted:
                    found[path] = arguments[0]

            with watched(merged, look):
                merged(images)
            return found

        self._state, self._inputs = state, jax.jit(inputs)  # what no layer's input needs, such as heads, is left out
        paths = module_paths(model)
        self._modules = {
            paths[id(module)]: module for _, module in nnx.iter_modules(model) if paths[id(module)] in wanted
        }

    def __call__(
        self, image: Float[Array, "h w c"], boxes: Float[np.ndarray, "k 4"]
    ) -> dict[str, Float[np.ndarray, "k n ha wa"]]:
        """Return the map of each object and head, by the path of the layer; each map sums to one.

        Args:
            image: normalised, on its canvas.
            boxes: x1, y1, x2, y2 of each object in the canvas's pixels.
        """
        inputs = self._inputs(self._state, image[None])
        found = {}
        for path in self.layers:
            module: Any = self._modules[path]
            grid = module.attended_shape(*inputs[path].shape[1:3])
            maps = [
                self._mean(module, inputs[path], positions_inside(box, (image.shape[0], image.shape[1]), grid))
                for box in boxes
            ]
            found[path] = np.stack(maps) if maps else np.zeros((0, module.num_heads, *grid), np.float32)
        return found

    def _mean(self, module: Any, x: Array, positions: Int[np.ndarray, "q 2"]) -> np.ndarray:
        """Return the mean of the maps of some positions, [heads, ha, wa]."""
        total: Any = 0.0
        for start in range(0, len(positions), _AT_ONCE):
            some = positions[start : start + _AT_ONCE]
            weights = module.attention_weights(x, np.resize(some, (_AT_ONCE, 2)))[0]  # [heads, queries, ha, wa]
            total = total + np.asarray(weights[:, : len(some)].sum(1))
        return total / len(positions)


def positions_inside(
    box: Float[np.ndarray, "4"], canvas: tuple[int, int], grid: tuple[int, int]
) -> Int[np.ndarray, "q 2"]:
    """Return the (row, column) of the positions of a map whose centres lie in a box, or of the one nearest its centre.

    Args:
        box: x1, y1, x2, y2 in the canvas's pixels.
        canvas: its height and width.
        grid: height and width of the map, which covers the canvas.
    """
    x1, y1, x2, y2 = np.asarray(box, np.float64)
    chosen = []
    for low, high, size, count in ((y1, y2, canvas[0], grid[0]), (x1, x2, canvas[1], grid[1])):
        centres = (np.arange(count) + 0.5) * size / count
        inside = np.flatnonzero((low <= centres) & (centres <= high))
        chosen.append(inside if len(inside) else np.abs(centres - (low + high) / 2).argmin()[None])
    return np.stack(np.meshgrid(*chosen, indexing="ij"), -1).reshape(-1, 2)


@in_plain_style
def object_attention_figure(
    pixels: UInt8[np.ndarray, "h w c"],
    boxes: Float[Any, "k 4"],
    labels: Int[Any, " k"],
    scores: Float[Any, " k"],
    class_names: Sequence[str],
    maps: Mapping[str, Float[Any, "k n ha wa"]],
    size: tuple[int, int] | None = None,
    file: Path | None = None,
) -> Figure:
    """Draw what each of some detected objects attends to, a row each: photograph and box, then each layer's map.

    A map is the mean over the heads, scaled to its own largest weight. The object's box is on it. Below stand the part
    of the attention that stays in the box, and in brackets that of even attention, which is the box's part of the map.

    Args:
        pixels: of the canvas, 0 to 255.
        boxes: x1, y1, x2, y2 of each object in the canvas's pixels.
        labels: the class of each.
        scores: of each.
        class_names: of every class.
        maps: from `ObjectAttention`, of these boxes.
        size: height and width of the part of the canvas that the photograph fills; None for all of it.
        file: the PNG to write, if any.
    """
    all_boxes = np.asarray(boxes, np.float64)
    height, width = size or pixels.shape[:2]
    photo = as_color(pixels)[:height, :width]
    grey = photo.astype(np.float32).mean(-1)
    side = 2.3
    wide, tall = (side, side * height / width) if width >= height else (side * width / height, side)
    gap, head, foot = 0.1, 0.42, 0.24
    total = (gap + (1 + len(maps)) * (wide + gap), head + max(len(all_boxes), 1) * (tall + foot))
    figure = Figure(figsize=total, dpi=100)
    FigureCanvasAgg(figure)
    for row, box in enumerate(all_boxes):
        y = total[1] - head - (row + 1) * tall - row * foot
        for column, (path, of_layer) in enumerate([("", None), *maps.items()]):
            x = gap + column * (wide + gap)
            axes = figure.add_axes((x / total[0], y / total[1], wide / total[0], tall / total[1]))
            if of_layer is None:
                boxes_on(axes, photo, box[None], labels[row : row + 1], class_names, scores[row : row + 1], size=8)
                continue
            weights = np.asarray(of_layer[row], np.float32).mean(0)
            axes.imshow(grey, cmap="gray", vmin=0, vmax=255)
            extent = (-0.5, pixels.shape[1] - 0.5, pixels.shape[0] - 0.5, -0.5)
            axes.imshow(weights / weights.max(), cmap="inferno", alpha=0.65, extent=extent, interpolation="bilinear")
            axes.set_xlim(-0.5, width - 0.5)
            axes.set_ylim(height - 0.5, -0.5)
            axes.set_axis_off()
            outline(axes, box, class_color(int(labels[row])), "-", 1.3)
            inside = positions_inside(box, pixels.shape[:2], weights.shape)
            within, even = weights[inside[:, 0], inside[:, 1]].sum() / weights.sum(), len(inside) / weights.size
            center = (x + wide / 2) / total[0]
            words = f"{100 * within:.1f} % stays in the box ({100 * even:.1f} %)"
            figure.text(center, (y - 0.15) / total[1], words, fontsize=7, color=_INK, ha="center")
            if row == 0:
                layer = path.rsplit(".", 1)[0]  # only one convolution of a block attends
                shape = f"{weights.shape[0]}×{weights.shape[1]}"
                words = f"{layer}\nmean of {of_layer.shape[1]} heads at {shape}"
                figure.text(center, (y + tall + 0.06) / total[1], words, fontsize=7, color=_INK, ha="center")
    return saved(figure, file, 100)


def draw_objects(
    attention: ObjectAttention,
    image: Float[Array, "h w c"],
    pixels: UInt8[np.ndarray, "h w c"],
    boxes: Float[Any, "k 4"],
    labels: Int[Any, " k"],
    scores: Float[Any, " k"],
    class_names: Sequence[str],
    *,
    size: tuple[int, int] | None = None,
    most: int = 4,
    file: Path | None = None,
) -> Figure:
    """Draw what the surest objects of one photograph attend to in the backbone of their detector.

    Args:
        attention: of the detector.
        image: normalised, on its canvas.
        pixels: the same canvas as pixels, 0 to 255.
        boxes, labels, scores, class_names, size, file: as in `object_attention_figure`; in any order.
        most: how many objects to draw at most.
    """
    order = np.argsort(-np.asarray(scores, np.float64), kind="stable")[:most]
    some, kinds, values = (np.asarray(of)[order] for of in (boxes, labels, scores))
    maps = attention(image, np.asarray(some, np.float64))
    return object_attention_figure(pixels, some, kinds, values, class_names, maps, size, file)
