"""Encoded images to arrays and back, with Pillow."""

import io
from collections.abc import Callable
from typing import Literal

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageOps

Box = tuple[float, float, float, float]
"""left, upper, right, lower, in pixels."""
Window = Callable[[int, int], Box]
"""(height, width) of an image to the part of it that is wanted."""
Interpolation = Literal["bilinear", "bicubic"]
_FILTERS = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}
_MODES = {1: "L", 3: "RGB"}
_ORIENTATION = 0x0112  # the EXIF tag


def decode_image(encoded: bytes, channels: int) -> UInt8[np.ndarray, "h w c"]:
    """Decodes PNG, JPEG or WebP to uint8 [h, w, channels]; grey or RGB is forced.

    Raises:
        OSError, ValueError, SyntaxError: what Pillow raises for bytes that are no whole image; the caller knows the
            file and the index.
    """
    with Image.open(io.BytesIO(encoded)) as image:
        pixels = np.asarray(image.convert(_MODES[channels]))
    return pixels.reshape(*pixels.shape[:2], channels)


def decode_part(
    encoded: bytes,
    channels: int,
    size: tuple[int, int],
    window: Window | None = None,
    interpolation: Interpolation = "bilinear",
) -> tuple[UInt8[np.ndarray, "h w c"], tuple[int, int]]:
    """The part `window` of an encoded image, resized to `size`, and the (height, width) of the whole.

    The same pixels as `resize(decode_image(encoded, channels), size, box)`, in half the time: the whole image is never
    copied into an array.

    Raises:
        As `decode_image`.
    """
    mode = _MODES[channels]
    with Image.open(io.BytesIO(encoded)) as opened:
        image = opened if opened.mode == mode else opened.convert(mode)
        part = part_of(image, size, window, interpolation)
        return np.asarray(part).reshape(*size, channels), (image.height, image.width)


class FloatPixels(ValueError):
    """An image of numbers without a range, which can be shown in many ways."""


def as_shown(image: Image.Image) -> Image.Image:
    """An image file as a viewer shows it, whatever it holds.

    Turned upright as its EXIF says; 16 bits a channel scaled to 8; transparency composited over white. An image that
    needs none of these is returned as it is.

    Raises:
        FloatPixels: floating-point pixels.
        OSError, ValueError, SyntaxError: as `decode_image`.
    """
    if image.mode == "F":
        raise FloatPixels("floating-point pixels have no defined range; save it with 8 or 16 bits a channel")
    if image.getexif().get(_ORIENTATION, 1) != 1:
        image = ImageOps.exif_transpose(image)
    if image.mode == "I" or image.mode.startswith("I;16"):
        values = np.asarray(image).astype(np.int64)
        return Image.fromarray(np.clip((values + 128) // 257, 0, 255).astype(np.uint8))
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image


def encode_png(image: UInt8[np.ndarray, "h w c"]) -> bytes:
    """The PNG file of one grey or RGB image."""
    buffer = io.BytesIO()
    # Level 1 packs photographs about as well as the default and five times as fast.
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
    """Return the part `window` of a picture, resized to `size`; without a window a picture of that size as it is."""
    whole = picture.height, picture.width
    if window is None and whole == size:
        return picture
    return _resized(picture, size, window and window(*whole), interpolation)


def as_picture(image: UInt8[np.ndarray, "h w c"]) -> Image.Image:
    """Pillow's form of a grey or RGB image."""
    return Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image)


def as_pixels(picture: Image.Image) -> UInt8[np.ndarray, "h w c"]:
    """The array of a grey or RGB picture."""
    return np.asarray(picture).reshape(picture.height, picture.width, len(picture.getbands()))


def _resized(picture: Image.Image, size: tuple[int, int], box: Box | None, interpolation: Interpolation) -> Image.Image:
    return picture.resize((size[1], size[0]), _FILTERS[interpolation], box=box)
