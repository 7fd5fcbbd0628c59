"""The operations that RandAugment and 3-Augment choose from, on one image on the host: uint8 to uint8, of equal shape.

Images have one channel (grey) or three (red, green, blue). All operations take both; what has to do with colour leaves
grey images as they are. Pillow computes them.
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
"""Pixel of what comes in from outside the image, one value a channel."""


def _on_pixels(operation: Callable[..., Image.Image]) -> Callable[..., Pixels]:
    """A function of pictures as one of arrays."""

    @functools.wraps(operation)
    def run(image: Pixels, *arguments: Any) -> Pixels:
        if image.shape[-1] not in (1, 3):
            raise ValueError(f"image has {image.shape[-1]} channels, expected 1 (grey) or 3 (red, green, blue)")
        return as_pixels(operation(as_picture(image), *arguments))

    return run


@_on_pixels
def grayscale(picture: Image.Image) -> Image.Image:
    """Its luma (ITU-R BT.601) in every channel."""
    return picture.convert("L").convert(picture.mode)


@_on_pixels
def auto_contrast(picture: Image.Image) -> Image.Image:
    """Each channel stretched so that its darkest pixel is 0 and its brightest 255."""
    return ImageOps.autocontrast(picture)


@_on_pixels
def equalize(picture: Image.Image) -> Image.Image:
    """Each channel with its histogram made as level as whole grey levels allow."""
    return ImageOps.equalize(picture)


@_on_pixels
def solarize(picture: Image.Image, threshold: int) -> Image.Image:
    """255 - x where x is at least the threshold."""
    return ImageOps.solarize(picture, threshold)


@_on_pixels
def posterize(picture: Image.Image, bits: int) -> Image.Image:
    """The highest `bits` bits of each value, 1 to 8; the others are 0."""
    return ImageOps.posterize(picture, bits)


@_on_pixels
def color(picture: Image.Image, factor: float) -> Image.Image:
    """Blended with its luma: factor 0 is grey, 1 the image."""
    return ImageEnhance.Color(picture).enhance(factor)


@_on_pixels
def contrast(picture: Image.Image, factor: float) -> Image.Image:
    """Blended with the mean of its luma: factor 0 is flat grey, 1 the image."""
    return ImageEnhance.Contrast(picture).enhance(factor)


@_on_pixels
def brightness(picture: Image.Image, factor: float) -> Image.Image:
    """Blended with black: factor 0 is black, 1 the image."""
    return ImageEnhance.Brightness(picture).enhance(factor)


@_on_pixels
def sharpness(picture: Image.Image, factor: float) -> Image.Image:
    """Blended with itself smoothed by 3×3 weights of 1 around 5: factor 0 is that, 1 the image, 2 sharper."""
    return ImageEnhance.Sharpness(picture).enhance(factor)


@_on_pixels
def gaussian_blur(picture: Image.Image, radius: float) -> Image.Image:
    """Smoothed by a bell curve whose standard deviation is `radius` pixels."""
    return picture.filter(ImageFilter.GaussianBlur(radius))


@_on_pixels
def rotate(picture: Image.Image, degrees: float, fill: Fill) -> Image.Image:
    """Turned counter-clockwise about its centre."""
    return picture.rotate(degrees, Image.Resampling.BILINEAR, fillcolor=_color(fill))


@_on_pixels
def shear_x(picture: Image.Image, slope: float, fill: Fill) -> Image.Image:
    """The pixel at (x, y) comes from (x + slope · y, y), so the top row stays, as in AutoAugment's code."""
    return _affine(picture, (1.0, slope, 0.0, 0.0, 1.0, 0.0), fill)


@_on_pixels
def shear_y(picture: Image.Image, slope: float, fill: Fill) -> Image.Image:
    """The pixel at (x, y) comes from (x, y + slope · x), so the left column stays."""
    return _affine(picture, (1.0, 0.0, 0.0, slope, 1.0, 0.0), fill)


@_on_pixels
def translate_x(picture: Image.Image, fraction: float, fill: Fill) -> Image.Image:
    """Moved left by a fraction of its width."""
    return _affine(picture, (1.0, 0.0, fraction * picture.width, 0.0, 1.0, 0.0), fill)


@_on_pixels
def translate_y(picture: Image.Image, fraction: float, fill: Fill) -> Image.Image:
    """Moved up by a fraction of its height."""
    return _affine(picture, (1.0, 0.0, 0.0, 0.0, 1.0, fraction * picture.height), fill)


def _affine(picture: Image.Image, matrix: tuple[float, ...], fill: Fill) -> Image.Image:
    """(a, b, c, d, e, f): the pixel at (x, y) comes from (a x + b y + c, d x + e y + f), bilinear."""
    return picture.transform(
        picture.size, Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR, fillcolor=_color(fill)
    )


def _color(fill: Fill) -> Any:
    return fill[0] if len(fill) == 1 else fill
