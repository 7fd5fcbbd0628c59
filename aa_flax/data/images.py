"""Conversion of encoded images to arrays and back, with Pillow."""

import io
from collections.abc import Callable
from typing import Literal, TypeVar

import numpy as np
from jaxtyping import Num, UInt8
from PIL import Image

from aa_flax.data.encoded import without_metadata
from aa_flax.data.placement import Box, Framing, Placement

Interpolation = Literal["bilinear", "bicubic"]
Result = TypeVar("Result")
_FILTERS = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}
_MODES = {1: "L", 3: "RGB"}


def decode_image(encoded: bytes, channels: int) -> UInt8[np.ndarray, "h w c"]:
    """Decode PNG, JPEG or WebP to uint8 [h, w, channels], converted to grey (1 channel) or RGB (3 channels).

    Raises:
        OSError, ValueError, SyntaxError: what Pillow raises for bytes that are no whole image. The caller, who knows
            the file and the index, adds them to the message.
    """

    def pixels(content: bytes) -> UInt8[np.ndarray, "..."]:
        with Image.open(io.BytesIO(content)) as image:
            return np.asarray(image.convert(_MODES[channels]))

    found = _whatever_the_metadata(pixels, encoded)
    return found.reshape(*found.shape[:2], channels)


def decode_part(
    encoded: bytes, channels: int, framing: Framing, interpolation: Interpolation = "bilinear"
) -> tuple[UInt8[np.ndarray, "h w c"], Placement]:
    """Return the canvas on which `framing` puts an encoded image, its padding black, and the placement.

    The pixels are those of `resize(decode_image(encoded, channels), size, window)`, in half the time, because the whole
    image is never copied into an array.

    Raises:
        As `decode_image`.
    """
    mode = _MODES[channels]

    def part(content: bytes) -> tuple[UInt8[np.ndarray, "h w c"], Placement]:
        with Image.open(io.BytesIO(content)) as opened:
            image = opened if opened.mode == mode else opened.convert(mode)
            return framed(image, framing, interpolation)

    return _whatever_the_metadata(part, encoded)


def _whatever_the_metadata(decode: Callable[[bytes], Result], encoded: bytes) -> Result:
    """Return what `decode` makes of an image, without its metadata if it fails with them."""
    try:
        return decode(encoded)
    except Exception:
        bare = without_metadata(encoded)
        if bare == encoded:
            raise
    return decode(bare)


def encode_png(image: UInt8[np.ndarray, "h w c"]) -> bytes:
    """Return the bytes of a PNG file of one grey or RGB image."""
    buffer = io.BytesIO()
    # Level 1 compresses photographs about as well as the default, five times as fast.
    as_picture(image).save(buffer, "png", compress_level=1)
    return buffer.getvalue()


def resize(
    image: UInt8[np.ndarray, "h w c"],
    size: tuple[int, int],
    box: Box | None = None,
    interpolation: Interpolation = "bilinear",
) -> UInt8[np.ndarray, "new_h new_w c"]:
    """Resize to (height, width) with antialiasing; `box` = (left, upper, right, lower) crops first."""
    return as_pixels(_resized(as_picture(image), size, box, interpolation))


def framed(
    picture: Image.Image, framing: Framing, interpolation: Interpolation = "bilinear"
) -> tuple[UInt8[np.ndarray, "h w c"], Placement]:
    """Return the canvas on which `framing` puts a grey or RGB picture, its padding black, and the placement."""
    placement = framing(picture.height, picture.width)
    if not placement.is_as_it_was:
        picture = _resized(picture, placement.size, placement.window, interpolation)
    return on_canvas(as_pixels(picture), placement), placement


def framed_pixels(
    image: UInt8[np.ndarray, "h w c"], framing: Framing, interpolation: Interpolation = "bilinear"
) -> tuple[UInt8[np.ndarray, "ch cw c"], Placement]:
    """Do what `framed` does, for an image in an array, which is not copied where it stays as it is."""
    placement = framing(image.shape[0], image.shape[1])
    if not placement.is_as_it_was:
        image = resize(image, placement.size, placement.window, interpolation)
    return on_canvas(image, placement), placement


def on_canvas(pixels: UInt8[np.ndarray, "h w c"], placement: Placement) -> UInt8[np.ndarray, "ch cw c"]:
    """Return pixels of a placement's size on its canvas, whose rest is black; themselves where they fill it."""
    if placement.size == placement.canvas:
        return pixels
    canvas = np.empty((*placement.canvas, pixels.shape[-1]), np.uint8)
    put_on_canvas(pixels, canvas)
    return canvas


def put_on_canvas(pixels: Num[np.ndarray, "*space c"], canvas: Num[np.ndarray, "*canvas c"]) -> None:
    """Copy pixels into the upper left corner of a canvas, and make the rest of it black; signals likewise.

    Raises:
        ValueError: the canvas is too small.
    """
    filled = tuple(map(slice, pixels.shape[:-1]))
    canvas[filled] = pixels
    for axis, side in enumerate(pixels.shape[:-1]):
        if side < canvas.shape[axis]:
            canvas[(*filled[:axis], slice(side, None))] = 0


def as_picture(image: UInt8[np.ndarray, "h w c"]) -> Image.Image:
    """Convert a grey or RGB image from an array to Pillow's class."""
    return Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image)


def as_pixels(picture: Image.Image) -> UInt8[np.ndarray, "h w c"]:
    """Convert a grey or RGB picture of Pillow to an array."""
    return np.asarray(picture).reshape(picture.height, picture.width, len(picture.getbands()))


def _resized(picture: Image.Image, size: tuple[int, int], box: Box | None, interpolation: Interpolation) -> Image.Image:
    return picture.resize((size[1], size[0]), _FILTERS[interpolation], box=box)
