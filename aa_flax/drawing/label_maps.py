"""Label maps in colours, alone and over photographs."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from aa_flax.drawing.boxes import as_color, class_color

_NONE = (0, 0, 0)


def label_colors(num_classes: int, given: Sequence[Sequence[int]] = ()) -> UInt8[np.ndarray, "256 3"]:
    """Return red, green and blue of each label: the data set's own, else `class_color`; black of what has no class.

    Args:
        num_classes: how many classes there are, at most 255.
        given: the data set's colours, 0 to 255, () for a class that has none; () if no class has one.

    Raises:
        ValueError: another number of colours than of classes.
    """
    if given and len(given) != num_classes:
        raise ValueError(f"{len(given)} colours for {num_classes} classes")
    colors = np.full((256, 3), _NONE, np.uint8)
    own = [[round(255 * part) for part in class_color(label)] for label in range(num_classes)]
    colors[:num_classes] = [
        tuple(color) or other for color, other in zip(given or [()] * num_classes, own, strict=True)
    ]
    return colors


def overlay(
    pixels: UInt8[np.ndarray, "h w c"],
    labels: UInt8[np.ndarray, "h w"],
    colors: UInt8[np.ndarray, "256 3"],
    opacity: float = 0.55,
) -> UInt8[np.ndarray, "h w 3"]:
    """Return a photograph under the colours of its labels; what has no class stays as it is.

    Args:
        pixels: of the photograph, 0 to 255, grey or colour.
        labels: of its pixels.
        colors: of each label, see `label_colors`.
        opacity: of the colours, 0 to 1.
    """
    photo = as_color(pixels).astype(np.float32)
    part = np.where(labels == 255, 0, opacity)[..., None].astype(np.float32)
    mixed = (1 - part) * photo + part * colors[labels]
    return mixed.round().astype(np.uint8)


def errors(
    pixels: UInt8[np.ndarray, "h w c"], labels: UInt8[np.ndarray, "h w"], truth: UInt8[np.ndarray, "h w"]
) -> UInt8[np.ndarray, "h w 3"]:
    """Return a photograph in faint grey where its labels are right, red where wrong, black where it has no class."""
    grey = 128 + as_color(pixels).astype(np.float32).mean(-1, keepdims=True) / 2
    shown = np.repeat(grey, 3, -1)
    wrong, none = (labels != truth) & (truth != 255), truth == 255
    shown[wrong] = 0.3 * shown[wrong] + 0.7 * np.array([215, 25, 28], np.float32)
    shown[none] = 0
    return shown.round().astype(np.uint8)


def as_picture(labels: UInt8[np.ndarray, "h w"], colors: UInt8[np.ndarray, "256 3"]) -> Image.Image:
    """Return a picture with a palette, whose pixels are the labels themselves and are shown in their colours."""
    picture = Image.fromarray(labels)
    picture.putpalette(colors.tobytes())
    return picture
