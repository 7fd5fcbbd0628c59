"""What the objects that a detector found attend to in its backbone."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, Float, Int, UInt8
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from aa_flax.drawing.attention_maps import attending_paths, last_of_each_stage, layer_name
from aa_flax.drawing.boxes import as_color, boxes_on, class_color, outline
from aa_flax.drawing.photo_attention import AttentionError
from aa_flax.drawing.saving import drawable_names, in_plain_style, saved
from aa_flax.drawing.trace import watched
from aa_flax.precision import at_least_float32

_INK = "#333333"
_SIDE, _NARROWEST = 2.3, 1.75
"""Inches of a panel's longer side, and of the words at it, which a panel of a tall photograph is narrower than."""
_AT_ONCE = 1024
"""Positions whose maps are in memory together; at 640×640 pixels and a stride of 16 there are 1,600."""
_OBJECTS = 4
"""Objects are computed in groups of so many, so that another number of them compiles nothing anew."""


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
        wanted = set(last_of_each_stage(attending) if layers is None else layers)
        if strange := sorted(wanted - set(attending)):
            raise ValueError(f"layers: {strange[0]!r} does not attend; attending layers: {', '.join(attending)}")
        self.layers = [path for path in attending if path in wanted]
        graph, state = nnx.split(model)

        def maps(state: Any, image: Array, boxes: Array) -> dict[str, Array]:
            merged: Any = nnx.merge(graph, state, copy=True)
            merged.eval()
            found: dict[str, Array] = {}

            def look(path: str, module: Any, arguments: tuple) -> None:
                if path in wanted:
                    found[path] = _mean_maps(module, arguments[0], boxes, (image.shape[0], image.shape[1]))

            with watched(merged, look):
                merged(image[None])  # what no map needs, such as a detector's heads, is compiled away
            return found

        self._state, self._maps = state, jax.jit(maps)

    def __call__(
        self, image: Float[Array, "h w c"], boxes: Float[np.ndarray, "k 4"]
    ) -> dict[str, Float[np.ndarray, "k n ha wa"]]:
        """Return the map of each object and head, by the path of the layer; each map sums to one.

        Args:
            image: normalised, on its canvas.
            boxes: x1, y1, x2, y2 of each object in the canvas's pixels.
        """
        groups = max(-(-len(boxes) // _OBJECTS), 1)
        padded = np.zeros((groups * _OBJECTS, 4), np.float32)
        padded[: len(boxes)] = boxes
        found = [self._maps(self._state, image, group) for group in padded.reshape(groups, _OBJECTS, 4)]
        return {
            path: np.concatenate([np.asarray(group[path]) for group in found])[: len(boxes)] for path in self.layers
        }


def inside(
    boxes: Float[Any, "k 4"], canvas: tuple[int, int], grid: tuple[int, int], numpy: Any = np
) -> Bool[Any, "k ha wa"]:
    """Return which positions of a map have their centres in each box, or the one nearest the box's where none has.

    Args:
        boxes: x1, y1, x2, y2 in the canvas's pixels.
        canvas: its height and width.
        grid: height and width of the map, which covers the canvas.
        numpy: the module that computes, `numpy` or `jax.numpy`.
    """
    along = []
    for low, high, size, count in zip((1, 0), (3, 2), canvas, grid, strict=True):
        centres = (numpy.arange(count) + 0.5)[None] * size / count
        within = (boxes[:, low, None] <= centres) & (centres <= boxes[:, high, None])
        distance = numpy.abs(centres - (boxes[:, low, None] + boxes[:, high, None]) / 2)
        nearest = numpy.arange(count)[None] == distance.argmin(1)[:, None]
        along.append(numpy.where(within.any(1)[:, None], within, nearest))
    return along[0][:, :, None] & along[1][:, None, :]


def _mean_maps(module: Any, x: Array, boxes: Array, canvas: tuple[int, int]) -> Float[Array, "k n ha wa"]:
    """Return the mean of a layer's maps over the positions inside each box."""
    grid = module.attended_shape(*x.shape[1:3])
    chosen = inside(boxes, canvas, grid, jnp).reshape(len(boxes), -1).astype(at_least_float32(x.dtype))
    chosen /= chosen.sum(1, keepdims=True)
    positions = np.stack(np.divmod(np.arange(grid[0] * grid[1]), grid[1]), -1)
    total: Any = 0.0
    for start in range(0, len(positions), _AT_ONCE):
        weights = module.attention_weights(x, positions[start : start + _AT_ONCE])[0]  # [heads, queries, ha, wa]
        total += jnp.einsum("kq,nqhw->knhw", chosen[:, start : start + _AT_ONCE], weights)
    return total


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
    Where the box has no room for the object's name, that stands below the photograph.

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
    wide, tall = (_SIDE, _SIDE * height / width) if width >= height else (_SIDE * width / height, _SIDE)
    gap, head, foot = 0.1, 0.42, 0.24
    cell = max(wide, _NARROWEST)
    total = (gap + (1 + len(maps)) * (cell + gap), head + max(len(all_boxes), 1) * (tall + foot))
    names = drawable_names(class_names)
    figure = Figure(figsize=total, dpi=100)
    FigureCanvasAgg(figure)
    for row, box in enumerate(all_boxes):
        y = total[1] - head - (row + 1) * tall - row * foot
        for column, (path, of_layer) in enumerate([("", None), *maps.items()]):
            x = gap + column * (cell + gap) + (cell - wide) / 2
            center = (x + wide / 2) / total[0]
            axes = figure.add_axes((x / total[0], y / total[1], wide / total[0], tall / total[1]))
            if of_layer is None:
                one = labels[row : row + 1], class_names, scores[row : row + 1]
                if not boxes_on(axes, photo, box[None], *one, size=8.0):
                    words = f"{names[int(labels[row])]} {scores[row]:.2f}"
                    figure.text(center, (y - 0.15) / total[1], words, fontsize=7, color=_INK, ha="center")
                continue
            weights = np.asarray(of_layer[row], np.float32).mean(0)
            axes.imshow(grey, cmap="gray", vmin=0, vmax=255)
            extent = (-0.5, pixels.shape[1] - 0.5, pixels.shape[0] - 0.5, -0.5)
            axes.imshow(weights / weights.max(), cmap="inferno", alpha=0.65, extent=extent, interpolation="bilinear")
            axes.set_xlim(-0.5, width - 0.5)
            axes.set_ylim(height - 0.5, -0.5)
            axes.set_axis_off()
            outline(axes, box, class_color(int(labels[row])), "-", 1.3)
            own = inside(box[None], (pixels.shape[0], pixels.shape[1]), weights.shape)[0]
            within, even = weights[own].sum() / weights.sum(), own.mean()
            words = f"{100 * within:.1f} % stays in the box ({100 * even:.1f} %)"
            figure.text(center, (y - 0.15) / total[1], words, fontsize=7, color=_INK, ha="center")
            if row == 0:
                shape = f"{weights.shape[0]}×{weights.shape[1]}"
                words = f"{layer_name(path)}\nmean of {of_layer.shape[1]} heads at {shape}"
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
