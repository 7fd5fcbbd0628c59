"""Cutout and random erasing on the device: they overwrite a part of each normalised image."""

import math
from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from aa_flax.data.augment.device import RandomKey
from aa_flax.precision import at_least_float32

Fill = Literal["noise", "zero"]
_ATTEMPTS = 10


def cutout(key: RandomKey, images: Float[Array, "b h w c"], size: int) -> Float[Array, "b h w c"]:
    """Set a size × size square of each image to zero, the mean of normalised pixels (DeVries and Taylor, 2017).

    The centre is uniform over all pixels, so part of the square may lie outside the image, as in the paper.

    Raises:
        ValueError: size below 1.
    """
    if size < 1:
        raise ValueError(f"size is {size}, expected at least 1")
    batch, height, width, _ = images.shape
    row_key, column_key = jax.random.split(key)

    def inside(key: RandomKey, length: int) -> Array:
        start = jax.random.randint(key, (batch,), 0, length) - size // 2
        return _covered(start, jnp.full((batch,), size), length)

    rows, columns = inside(row_key, height), inside(column_key, width)
    return jnp.where(_box(rows, columns), jnp.zeros((), images.dtype), images)


def random_erasing(
    key: RandomKey,
    images: Float[Array, "b h w c"],
    probability: float,
    *,
    area: tuple[float, float] = (0.02, 1 / 3),
    aspect: tuple[float, float] = (0.3, 1 / 0.3),
    fill: Fill = "noise",
) -> Float[Array, "b h w c"]:
    """Overwrite a random box of each image with the given probability (Zhong et al., 2020, Algorithm 1).

    The area of the box, as a fraction of the image's, is uniform in `area`; its height / width is log-uniform in
    `aspect`; its sides are rounded to whole pixels, at least 1; its position is uniform over those that lie wholly
    inside the image. Ten boxes are drawn and the first that fits into the image is used; if none fits, the image stays
    as it is. The ranges, the log-uniform aspect, the ten draws and the noise are those of timm, with which DeiT was
    trained. The paper has areas up to 0.4, uniform aspects, as many draws as are needed, and uniform pixels.

    Args:
        images: normalised images, so that zero is the mean and one is a standard deviation.
        probability: the probability that an image is changed.
        area: the least and the largest area of the box, as fractions of the image's area.
        aspect: the least and the largest height / width of the box.
        fill: "noise" draws every value of the box from N(0, 1), "zero" sets it to the mean.

    Raises:
        ValueError: probability outside [0, 1], or an unknown fill.
    """
    if not 0 <= probability <= 1:
        raise ValueError(f"probability is {probability}, expected a number in [0, 1]")
    if fill not in ("noise", "zero"):
        raise ValueError(f"fill is {fill!r}, expected 'noise' or 'zero'")
    batch, height, width, _ = images.shape
    compute = at_least_float32(images.dtype)
    chance_key, area_key, aspect_key, row_key, column_key, noise_key = jax.random.split(key, 6)
    shape = (batch, _ATTEMPTS)
    areas = height * width * jax.random.uniform(area_key, shape, compute, *area)
    ratios = jnp.exp(jax.random.uniform(aspect_key, shape, compute, *(math.log(bound) for bound in aspect)))
    heights, widths = (
        jnp.maximum(jnp.round(jnp.sqrt(side)), 1).astype(jnp.int32) for side in (areas * ratios, areas / ratios)
    )
    fits = (heights <= height) & (widths <= width)
    first = jnp.argmax(fits, axis=1)[:, None]
    box_height, box_width = (jnp.take_along_axis(sides, first, axis=1)[:, 0] for sides in (heights, widths))
    # Where no box fits there is no position; the maximum keeps the draw valid, and that image is not chosen.
    top, left = (
        jax.random.randint(place_key, (batch,), 0, jnp.maximum(length - side, 0) + 1)
        for place_key, length, side in ((row_key, height, box_height), (column_key, width, box_width))
    )
    chosen = jax.random.bernoulli(chance_key, probability, (batch,)) & fits.any(axis=1)
    rows = _covered(top, box_height, height) & chosen[:, None]
    noise = jax.random.normal(noise_key, images.shape, compute) if fill == "noise" else jnp.zeros((), compute)
    return jnp.where(_box(rows, _covered(left, box_width, width)), noise.astype(images.dtype), images)


def _covered(start: Int[Array, " b"], size: Int[Array, " b"], length: int) -> Bool[Array, "b length"]:
    """Return whether each of the `length` positions of an axis lies in each image's interval."""
    position = jnp.arange(length)[None, :]
    return (position >= start[:, None]) & (position < (start + size)[:, None])


def _box(rows: Bool[Array, "b h"], columns: Bool[Array, "b w"]) -> Bool[Array, "b h w 1"]:
    return rows[:, :, None, None] & columns[:, None, :, None]
