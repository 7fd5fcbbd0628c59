"""A label map's file: its values, or its colours."""

import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from aa_flax.data.errors import DataError, one_line
from aa_flax.data.sets.label_classes import LabelClasses

_OF_BITS = {"L;2": 85, "L;4": 17}  # what Pillow multiplies grey values of fewer bits by


@dataclass(frozen=True)
class LabelImage:
    """What a label map's file has: values [h, w] of a grey image or of a palette, or else colours [h, w, 3].

    Attributes:
        pixels: the values or colours.
        palette: the colour of each value, red, green and blue one after the other, of a map with a palette.
    """

    pixels: UInt8[np.ndarray, "..."]
    palette: tuple[int, ...] = ()

    @property
    def size(self) -> tuple[int, int]:
        """Return (height, width)."""
        return self.pixels.shape[0], self.pixels.shape[1]


class WrongForm(DataError):
    """A file that can be decoded, and whose pixels are no labels of 8 bits."""


def read_label_image(path: Path) -> LabelImage:
    """Return the values or colours of a label map's file.

    Raises:
        WrongForm: it has more than 8 bits, or two channels.
        DataError: it cannot be read or decoded.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})") from None
    try:
        with Image.open(io.BytesIO(content)) as image:
            tile = image.tile[0].args if image.tile else ""
            palette = tuple(image.getpalette() or ()) if image.mode == "P" else ()
            mode, pixels = image.mode, np.asarray(image)
    # Pillow raises many types for damaged files.
    except Exception as error:
        raise DataError(f"{path}: the label map cannot be decoded ({one_line(error)})") from None
    form = tile if isinstance(tile, str) else ""
    if mode.startswith("I") or "16" in form:
        raise WrongForm(f"{path}: a label map of 16 bits, expected 8; its values would have to be classes of 0 to 254")
    if mode in ("RGB", "RGBA"):
        return LabelImage(np.ascontiguousarray(pixels[..., :3]))
    if mode not in ("1", "L", "P"):
        raise WrongForm(f"{path}: a label map of the form {mode}, expected grey or a palette of 8 bits")
    return LabelImage(pixels.astype(np.uint8) // _OF_BITS.get(form, 1), palette)


def labels_of(image: LabelImage, classes: LabelClasses) -> UInt8[np.ndarray, "h w"]:
    """Return the labels of a map.

    Raises:
        ValueError: a value or a colour stands for nothing, nothing says what colours stand for, or the values and the
            colours of a palette stand for different classes.
    """
    if image.pixels.ndim == 2:
        labels = classes.of_values(image.pixels)
        used, first = np.unique(image.pixels, return_index=True)
        colors = [image.palette[3 * value : 3 * value + 3] for value in used.tolist()]
        by_color = [classes.of_color.get(color) for color in colors]
        if None not in by_color and by_color != labels.reshape(-1)[first].tolist():
            raise ValueError("the colours of its palette are those of other classes than its values stand for")
        return labels
    if classes.path is None or not classes.have_colors:
        raise ValueError(
            "its pixels are colours, expected numbers of classes, grey or with a palette; a file classes.txt with "
            "lines 'name red green blue' says which colour is which class"
        )
    return classes.of_colors(image.pixels)
