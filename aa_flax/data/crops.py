"""Crops and resizing of one image on the host, on uint8 pixels.

A crop window is the part of an image that is kept. It is chosen from the image's size alone, so that a reader can
choose it before it decodes the image.
"""

import math

import numpy as np
from jaxtyping import UInt8

from aa_flax.data.images import resize
from aa_flax.data.placement import Box

_ATTEMPTS = 10


def pad_crop(
    image: UInt8[np.ndarray, "h w c"], padding: int, fill: np.ndarray, rng: np.random.Generator
) -> UInt8[np.ndarray, "h w c"]:
    """Pad by `padding` pixels on each side with the pixel `fill` [c], then take an h × w crop at random."""
    height, width = image.shape[:2]
    top, left = (int(offset) - padding for offset in rng.integers(0, 2 * padding + 1, 2))
    cropped = np.empty_like(image)
    cropped[...] = fill
    # The crop covers rows top .. top + h of the image; those outside the image are padding. Columns likewise.
    rows = slice(max(top, 0), min(top + height, height))
    columns = slice(max(left, 0), min(left + width, width))
    cropped[rows.start - top : rows.stop - top, columns.start - left : columns.stop - left] = image[rows, columns]
    return cropped


def resized_crop(
    image: UInt8[np.ndarray, "h w c"],
    size: tuple[int, int],
    rng: np.random.Generator,
    scale: tuple[float, float] = (0.08, 1.0),
    ratio: tuple[float, float] = (3 / 4, 4 / 3),
) -> UInt8[np.ndarray, "new_h new_w c"]:
    """Take a random part of the image and resize it (Szegedy et al., "Going Deeper with Convolutions", section 6).

    The area of the part, as a fraction of the image's, is uniform in `scale`; its width / height is log-uniform in
    `ratio`. If none of ten draws fits into the image, the largest centred part with a ratio in that range is taken.

    Args:
        image: pixels of any size.
        size: (height, width) of the result.
        rng: source of random numbers.
        scale: the least and the largest area of the part, as fractions of the image's area.
        ratio: the least and the largest width / height of the part.
    """
    height, width = image.shape[:2]
    return resize(image, size, resized_window(height, width, rng, scale, ratio))


def resized_window(
    height: int,
    width: int,
    rng: np.random.Generator,
    scale: tuple[float, float] = (0.08, 1.0),
    ratio: tuple[float, float] = (3 / 4, 4 / 3),
) -> Box:
    """Return the crop window of a height × width image that `resized_crop` resizes."""
    for _ in range(_ATTEMPTS):
        area = height * width * rng.uniform(*scale)
        aspect = math.exp(rng.uniform(math.log(ratio[0]), math.log(ratio[1])))
        crop_width, crop_height = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < crop_width <= width and 0 < crop_height <= height:
            left, top = (float(rng.integers(0, free + 1)) for free in (width - crop_width, height - crop_height))
            return left, top, left + crop_width, top + crop_height
    return _centred(height, width, min(float(height), width / ratio[0]), min(float(width), height * ratio[1]))


def center_window(height: int, width: int, size: tuple[int, int], fraction: float) -> Box:
    """Return the centred crop window of a height × width image that has the aspect of `size`.

    Its sides are `fraction` of those of the largest such window.
    """
    scale = fraction * min(height / size[0], width / size[1])
    return _centred(height, width, scale * size[0], scale * size[1])


def _centred(height: int, width: int, crop_height: float, crop_width: float) -> tuple[float, float, float, float]:
    left, top = (width - crop_width) / 2, (height - crop_height) / 2
    return left, top, left + crop_width, top + crop_height
