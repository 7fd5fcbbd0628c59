"""Conversion of encoded images to arrays and back, with Pillow."""

import io
from collections.abc import Callable
from typing import Literal, TypeVar

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from aa_flax.data.encoded import without_metadata

Box = tuple[float, float, float, float]
"""(left, upper, right, lower) in pixels."""
Window = Callable[[int, int], Box]
"""A function from the height and width of an image to its crop window, the part that is wanted."""
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
    encoded: bytes,
    channels: int,
    size: tuple[int, int],
    window: Window | None = None,
    interpolation: Interpolation = "bilinear",
) -> tuple[UInt8[np.ndarray, "h w c"], tuple[int, int]]:
    """Return the part `window` of an encoded image, resized to `size`, and the (height, width) of the whole image.

    The pixels are those of `resize(decode_image(encoded, channels), size, box)`, in half the time, because the whole
    image is never copied into an array.

    Raises:
        As `decode_image`.
    """
    mode = _MODES[channels]

    def part(content: bytes) -> tuple[UInt8[np.ndarray, "h w c"], tuple[int, int]]:
        with Image.open(io.BytesIO(content)) as opened:
            image = opened if opened.mode == mode else opened.convert(mode)
            found = part_of(image, size, window, interpolation)
            return np.asarray(found).reshape(*size, channels), (image.height, image.width)

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


def part_of(
    picture: Image.Image, size: tuple[int, int], window: Window | None = None, interpolation: Interpolation = "bilinear"
) -> Image.Image:
    """Return the part `window` of a picture, resized to `size`; without a window, the whole picture.

    A whole picture that has that size already is returned as it is.
    """
    whole = picture.height, picture.width
    if window is None and whole == size:
        return picture
    return _resized(picture, size, window and window(*whole), interpolation)


def as_picture(image: UInt8[np.ndarray, "h w c"]) -> Image.Image:
    """Convert a grey or RGB image from an array to Pillow's class."""
    return Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image)


def as_pixels(picture: Image.Image) -> UInt8[np.ndarray, "h w c"]:
    """Convert a grey or RGB picture of Pillow to an array."""
    return np.asarray(picture).reshape(picture.height, picture.width, len(picture.getbands()))


def _resized(picture: Image.Image, size: tuple[int, int], box: Box | None, interpolation: Interpolation) -> Image.Image:
    return picture.resize((size[1], size[0]), _FILTERS[interpolation], box=box)
