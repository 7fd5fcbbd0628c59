"""Pictures of what the tokens of attention pooling attend to, over photographs, as Touvron et al. (2021) draw them.

The README of their code, facebookresearch/deit, shows both kinds: one colour over the grey photo, and the photo
multiplied by the map of a class. The functions take pixels and weights, and no network;
`aa_flax.drawing.attention_maps` computes the weights.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from PIL import Image

from aa_flax.drawing.saving import drawable_names, in_plain_style, saved

COLORS = ("#ffcf1f", "#25c1f2", "#ff5fa2", "#7be04f", "#b58cff")
"""The colours of the most probable classes, in turn; a single token has the first."""
_INK = "#333333"
_OPACITY = 0.75


def scaled_map(weights: Float[Any, "h w"], size: tuple[int, int]) -> Float[np.ndarray, "height width"]:
    """Resize a token's weights to the photo's (height, width), bicubic, and scale them from 0, the least, to 1.

    Uniform weights become 0 everywhere.
    """
    values = np.asarray(weights, np.float32)
    values = values / max(float(values.max()), 1e-30)
    large = np.asarray(Image.fromarray(values).resize(size[::-1], Image.Resampling.BICUBIC))
    spread = large.max() - large.min()
    return (large - large.min()) / spread if spread > 1e-3 else np.zeros(size, np.float32)


def overlay(
    photo: UInt8[np.ndarray, "height width c"],
    maps: Float[np.ndarray, "k height width"],
    colors: Sequence[str] = COLORS,
) -> Float[np.ndarray, "height width 3"]:
    """Draw each map, of numbers 0 to 1, in its colour over the photo in grey; colours mix where maps overlap.

    Returns:
        Red, green and blue from 0 to 1.
    """
    grey = np.repeat(photo.astype(np.float32).mean(-1, keepdims=True) / 255, 3, -1)
    inks = np.array([to_rgb(color) for color in colors[: len(maps)]], np.float32)
    mixed = np.einsum("khw,kc->hwc", maps, inks) / np.maximum(maps.sum(0), 1e-6)[..., None]
    opacity = _OPACITY * maps.max(0)[..., None]
    return (1 - opacity) * grey + opacity * mixed


def pooling_figure(
    photos: UInt8[np.ndarray, "b height width c"],
    weights: Float[Any, "b tokens h w"],
    probabilities: Float[Any, "b classes"],
    class_names: Sequence[str],
    *,
    titles: Sequence[str] = (),
    top: int = 3,
    file: Path | None = None,
) -> Figure:
    """Draw what attention pooling attends to in some photographs, one row for each.

    With a single token, a row has the photo, named by its most probable class, and the map over the photo in grey. With
    a token for each class, a row has the photo, the maps of the `top` most probable classes over it, in a colour each,
    and, for each of these classes, the photo multiplied by its map. A map is scaled to its own least and largest
    weight, so brightness compares positions within a map, not maps with each other. Under each map is its largest
    weight, as a multiple of the weight that each position of an even map would have.

    Args:
        photos: pixels, 0 to 255, grey or colour.
        weights: the weights of each token over the map, for example `attention_maps(...)["pooling"][:, 0]`.
        probabilities: the probability of each class, from 0 to 1.
        class_names: the name of each class.
        titles: words to the left of each photo, for example its true class.
        top: the number of classes to draw where each class has a token.
        file: the PNG to write, if any.

    Raises:
        ValueError: the number of tokens is neither one nor that of the classes, or the numbers of photos, weights,
            probabilities and names do not agree.
    """
    weights, probabilities = np.asarray(weights, np.float32), np.asarray(probabilities, np.float32)
    tokens, classes = weights.shape[1], len(class_names)
    if tokens not in (1, classes):
        raise ValueError(f"weights must be of one token or of {classes}, one for each class, got {tokens}")
    if len(photos) != len(weights) or probabilities.shape != (len(photos), classes):
        raise ValueError(
            f"photos, weights and probabilities must be of as many images, and of {classes} classes; got "
            f"{len(photos)}, {len(weights)} and {probabilities.shape}"
        )
    ranked, names = np.argsort(-probabilities), drawable_names(class_names)
    captions = [
        [(int(k), f"{names[k]}\n{100 * row[k]:.1f} %") for k in order]
        for row, order in zip(probabilities, ranked, strict=True)
    ]
    return captioned_figure(photos, weights, captions, titles=titles, top=top, file=file)


@in_plain_style
def captioned_figure(
    photos: UInt8[np.ndarray, "b height width c"],
    weights: Float[Any, "b tokens h w"],
    captions: Sequence[Sequence[tuple[int, str]]],
    *,
    titles: Sequence[str] = (),
    top: int = 3,
    file: Path | None = None,
) -> Figure:
    """Draw the picture of `pooling_figure` with captions instead of probabilities.

    Args:
        photos, weights, titles, top, file: as for `pooling_figure`.
        captions: for each photo, (token, words) of each class, the most certain first.
    """
    weights = np.asarray(weights, np.float32)
    tokens = weights.shape[1]
    shown = min(top, tokens)
    columns = 2 if tokens == 1 else 2 + shown
    height, width = photos.shape[1:3]
    cell = 2.4
    size = (cell * columns * max(1.0, width / height), (cell * max(1.0, height / width) + 0.55) * len(photos))
    figure = Figure(figsize=size, layout="constrained")
    for row, line in enumerate(figure.subplots(len(photos), columns, squeeze=False)):
        numbers, words = zip(*captions[row][:shown], strict=True)
        chosen = weights[row, list(numbers)] if tokens > 1 else weights[row]
        maps = np.stack([scaled_map(one, (height, width)) for one in chosen])
        pixels = photos[row] if photos.shape[-1] == 3 else np.repeat(photos[row], 3, -1)
        _panel(line[0], pixels, title=words[0] if tokens == 1 else "")
        line[0].set_ylabel(titles[row] if titles else "", fontsize=9, color=_INK)
        _panel(
            line[1], overlay(photos[row], maps), label=_peak(chosen[0]) if tokens == 1 else "a colour for each class"
        )
        for i, axes in enumerate(line[2:]):
            _panel(axes, pixels / 255 * maps[i][..., None], words[i], _peak(chosen[i]), COLORS[i % len(COLORS)])
    return saved(figure, file, 110)


def _peak(weights: Float[np.ndarray, "h w"]) -> str:
    return f"at most {weights.max() * weights.size:.2g} times the even share"


def _panel(axes: Axes, pixels: Any, title: str = "", label: str = "", color: str | None = None) -> None:
    """Draw an image without ticks, framed in `color` if one is given."""
    axes.imshow(pixels, vmin=0, vmax=1)
    axes.set_title(title, fontsize=9, color=_INK)
    axes.set_xlabel(label, fontsize=7, color=_INK)
    axes.set(xticks=[], yticks=[])
    for spine in axes.spines.values():
        spine.set(visible=color is not None, color=color, linewidth=3)
