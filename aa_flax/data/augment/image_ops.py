"""The operations that RandAugment and 3-Augment choose from, on one image on the host.

Each takes uint8 [h, w, c] and returns uint8 of the same shape. Images have one channel (grey) or three (red, green,
blue); other numbers of channels raise ValueError. Operations on colour leave grey images as they are. Pillow computes
all of them.
"""

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageEnhance, ImageFilter, ImageOps

from aa_flax.data.images import as_picture, as_pixels

Pixels = UInt8[np.ndarray, "h w c"]
Fill = tuple[int, ...]
"""The pixel used for positions outside the image, one value per channel."""


def _on_pixels(operation: Callable[..., Image.Image]) -> Callable[..., Pixels]:
    """Return a function of arrays that does what `operation` does to Pillow's pictures."""

    @functools.wraps(operation)
    def run(image: Pixels, *arguments: Any) -> Pixels:
        if image.shape[-1] not in (1, 3):
            raise ValueError(f"image has {image.shape[-1]} channels, expected 1 (grey) or 3 (red, green, blue)")
        return as_pixels(operation(as_picture(image), *arguments))

    return run


@_on_pixels
def grayscale(picture: Image.Image) -> Image.Image:
    """Replace every channel by the picture's luma (ITU-R BT.601)."""
    return picture.convert("L").convert(picture.mode)


@_on_pixels
def auto_contrast(picture: Image.Image) -> Image.Image:
    """Stretch each channel so that its darkest pixel is 0 and its brightest 255."""
    return ImageOps.autocontrast(picture)


@_on_pixels
def equalize(picture: Image.Image) -> Image.Image:
    """Make the histogram of each channel as even as whole grey levels allow."""
    return ImageOps.equalize(picture)


@_on_pixels
def solarize(picture: Image.Image, threshold: int) -> Image.Image:
    """Replace each value x that is at least the threshold by 255 - x."""
    return ImageOps.solarize(picture, threshold)


@_on_pixels
def posterize(picture: Image.Image, bits: int) -> Image.Image:
    """Keep the highest `bits` bits, 1 to 8, of each value and set the others to 0."""
    return ImageOps.posterize(picture, bits)


@_on_pixels
def color(picture: Image.Image, factor: float) -> Image.Image:
    """Blend the picture with its luma: factor 0 is grey, 1 is the picture itself."""
    return ImageEnhance.Color(picture).enhance(factor)


@_on_pixels
def contrast(picture: Image.Image, factor: float) -> Image.Image:
    """Blend the picture with the mean of its luma: factor 0 is uniform grey, 1 is the picture itself."""
    return ImageEnhance.Contrast(picture).enhance(factor)


@_on_pixels
def brightness(picture: Image.Image, factor: float) -> Image.Image:
    """Blend the picture with black: factor 0 is black, 1 is the picture itself."""
    return ImageEnhance.Brightness(picture).enhance(factor)


@_on_pixels
def sharpness(picture: Image.Image, factor: float) -> Image.Image:
    """Blend the picture with a smoothed one: factor 0 is the smoothed one, 1 the picture itself, 2 is sharper.

    Smoothing is a weighted mean over 3×3 pixels, with weight 5 for the centre and 1 for the others.
    """
    return ImageEnhance.Sharpness(picture).enhance(factor)


@_on_pixels
def gaussian_blur(picture: Image.Image, radius: float) -> Image.Image:
    """Smooth the picture by a Gaussian whose standard deviation is `radius` pixels."""
    return picture.filter(ImageFilter.GaussianBlur(radius))


@_on_pixels
def rotate(picture: Image.Image, degrees: float, fill: Fill) -> Image.Image:
    """Rotate the picture counter-clockwise about its centre."""
    return picture.rotate(degrees, Image.Resampling.BILINEAR, fillcolor=_color(fill))


@_on_pixels
def shear_x(picture: Image.Image, slope: float, fill: Fill) -> Image.Image:
    """Take the pixel at (x, y) from (x + slope · y, y), so that the top row stays, as in AutoAugment's code."""
    return _affine(picture, (1.0, slope, 0.0, 0.0, 1.0, 0.0), fill)


@_on_pixels
def shear_y(picture: Image.Image, slope: float, fill: Fill) -> Image.Image:
    """Take the pixel at (x, y) from (x, y + slope · x), so that the left column stays."""
    return _affine(picture, (1.0, 0.0, 0.0, slope, 1.0, 0.0), fill)


@_on_pixels
def translate_x(picture: Image.Image, fraction: float, fill: Fill) -> Image.Image:
    """Move the picture left by a fraction of its width."""
    return _affine(picture, (1.0, 0.0, fraction * picture.width, 0.0, 1.0, 0.0), fill)


@_on_pixels
def translate_y(picture: Image.Image, fraction: float, fill: Fill) -> Image.Image:
    """Move the picture up by a fraction of its height."""
    return _affine(picture, (1.0, 0.0, 0.0, 0.0, 1.0, fraction * picture.height), fill)


def _affine(picture: Image.Image, matrix: tuple[float, ...], fill: Fill) -> Image.Image:
    """Take the pixel at (x, y) from (a x + b y + c, d x + e y + f), bilinear; `matrix` is (a, b, c, d, e, f)."""
    return picture.transform(
        picture.size, Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR, fillcolor=_color(fill)
    )


def _color(fill: Fill) -> Any:
    return fill[0] if len(fill) == 1 else fill
