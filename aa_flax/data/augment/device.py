"""Augmentation on the device: pure functions on a batch, meant to run inside the jitted train step.

This file holds colour jitter, normalisation, crops and flips; `erasing` and `mixing` hold the rest. Each function keeps
the shape and, unless it says otherwise, the dtype, and runs on sharded batches without moving images between chips.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Key, UInt8, UInt32

from aa_flax.precision import at_least_float32

RandomKey = Key[Array, ""] | UInt32[Array, "2"]


LUMA = (0.299, 0.587, 0.114)
"""The weights of red, green and blue in grey (ITU-R BT.601)."""


def color_jitter(
    key: RandomKey, images: UInt8[Array, "b h w c"] | Float[Array, "b h w c"], strength: float
) -> Float[Array, "b h w c"]:
    """Change brightness, contrast and saturation of each image, in this order, by random factors.

    brightness:  f x        contrast:  f x + (1 - f) · mean of the image's grey        saturation:  f x + (1 - f) · grey

    f is uniform in [1 - strength, 1 + strength], drawn for each image and each of the three. Grey is red, green and
    blue weighted by `LUMA`, and pixels are clipped to 0..255 after each change. In images of one channel that channel
    is the grey, and saturation changes nothing.

    Args:
        images: pixels, 0 to 255, of one or three channels.
        strength: a number from 0, which changes nothing, to 1.

    Returns:
        Pixels, 0 to 255, always in float32, because the products are not whole numbers.

    Raises:
        ValueError: strength outside [0, 1], or neither one nor three channels.
    """
    if not 0 <= strength <= 1:
        raise ValueError(f"strength is {strength}, expected a number in [0, 1]")
    if images.shape[-1] not in (1, 3):
        raise ValueError(f"images have {images.shape[-1]} channels, expected 1 (grey) or 3 (red, green, blue)")
    factors = jax.random.uniform(
        key, (images.shape[0], 3, 1, 1, 1), jnp.float32, minval=1 - strength, maxval=1 + strength
    )
    brightness, contrast, saturation = (factors[:, i] for i in range(3))

    def blended(factor: Array, pixels: Array, other: Array | float) -> Array:
        return jnp.clip(factor * pixels + (1 - factor) * other, 0, 255)

    pixels = blended(brightness, images.astype(jnp.float32), 0.0)
    pixels = blended(contrast, pixels, _grey(pixels).mean((1, 2, 3), keepdims=True))
    return blended(saturation, pixels, _grey(pixels)) if images.shape[-1] == 3 else pixels


def _grey(pixels: Float[Array, "b h w c"]) -> Float[Array, "b h w 1"]:
    if pixels.shape[-1] == 1:
        return pixels
    # A sum, not a matrix product, whose precision accelerators lower.
    weighted = (weight * pixels[..., channel, None] for channel, weight in enumerate(LUMA))
    return sum(weighted, jnp.zeros((), pixels.dtype))


def normalize(
    images: UInt8[Array, "b *space c"] | Float[Array, "b *space c"],
    mean: Sequence[float],
    std: Sequence[float],
    dtype: DTypeLike = jnp.float32,
    *,
    unit: float = 255.0,
) -> Float[Array, "b *space c"]:
    """Return (images / unit - mean) / std, per channel.

    Args:
        images: pixels, 0 to 255; or signals.
        mean, std: one value per channel, of pixels in 0..1.
        dtype: the dtype of the result; the computation is in at least float32.
        unit: what pixels are divided by; 1 for signals.

    Raises:
        ValueError: mean or std does not have one value per channel.
    """
    channels = images.shape[-1]
    if len(mean) != channels or len(std) != channels:
        raise ValueError(f"mean and std have {len(mean)} and {len(std)} values, expected {channels}, one a channel")
    compute = at_least_float32(dtype)
    shape = (*(1,) * (images.ndim - 1), channels)
    center, scale = (jnp.asarray(values, compute).reshape(shape) for values in (mean, std))
    return ((images.astype(compute) / unit - center) / scale).astype(dtype)


def random_crop(
    key: RandomKey, images: UInt8[Array, "b h w c"], padding: int, fill: tuple[int, ...]
) -> UInt8[Array, "b h w c"]:
    """Pad each image by `padding` pixels on each side with the pixel `fill`, then take an h × w crop at random.

    `aa_flax.data.crops.pad_crop` does the same on the host, with other random draws.
    """
    batch, height, width, channels = images.shape
    pixel = jnp.asarray(fill, images.dtype)
    padded = jnp.broadcast_to(pixel, (batch, height + 2 * padding, width + 2 * padding, channels))
    padded = padded.at[:, padding : padding + height, padding : padding + width].set(images)
    starts = jax.random.randint(key, (batch, 2), 0, 2 * padding + 1)

    def cropped(image: Array, start: Array) -> Array:
        return jax.lax.dynamic_slice(image, (start[0], start[1], 0), (height, width, channels))

    return jax.vmap(cropped)(padded, starts)


def within(sizes: Float[Array, "b axes"], space: Sequence[int]) -> Bool[Array, "b *space"]:
    """Return which locations of a space lie within the sizes, such as each image's own (height, width), from 0 on."""
    inside = jnp.ones((), bool)
    for axis, length in enumerate(space):
        shape = [1] + [length if other == axis else 1 for other in range(len(space))]
        own = sizes[:, axis].reshape(-1, *(1,) * len(space))
        inside = inside & (jnp.arange(length).reshape(shape) < own)
    return inside


def without_padding(images: Float[Array, "b *space c"], sizes: Float[Array, "b axes"]) -> Float[Array, "b *space c"]:
    """Set to 0 what lies below or right of each image's own (height, width), and likewise of signals."""
    return jnp.where(within(sizes, images.shape[1:-1])[..., None], images, jnp.zeros((), images.dtype))


def flips(key: RandomKey, count: int) -> Bool[Array, " count"]:
    """Return which of `count` images `random_flip` mirrors: each with probability one half."""
    return jax.random.bernoulli(key, 0.5, (count, 1, 1, 1)).reshape(count)


def random_flip(key: RandomKey, images: Array) -> Array:
    """Mirror each image left to right with probability one half; `images` is [b, h, w, c]."""
    return flipped(images, flips(key, images.shape[0]))


def flipped(images: Array, chosen: Bool[Array, " b"], widths: Float[Array, " b"] | None = None) -> Array:
    """Mirror the chosen images [b, h, w, c] left to right, each within its first columns, `widths`, if these are given.

    Padding to the right stays where it is.
    """
    mirrored = images[:, :, ::-1]
    if widths is not None:
        padding = images.shape[2] - widths.astype(jnp.int32)
        mirrored = jax.vmap(lambda image, columns: jnp.roll(image, -columns, axis=1))(mirrored, padding)
    return jnp.where(chosen[:, None, None, None], mirrored, images)


def flipped_boxes(
    boxes: Float[Array, "b n 4"], chosen: Bool[Array, " b"], widths: Float[Array, " b"]
) -> Float[Array, "b n 4"]:
    """Move boxes x1, y1, x2, y2 with images that `flipped` mirrors."""
    left, upper, right, lower = (boxes[..., i] for i in range(4))
    mirrored = jnp.stack([widths[:, None] - right, upper, widths[:, None] - left, lower], -1)
    return jnp.where(chosen[:, None, None], mirrored, boxes)


def flipped_masks(masks: UInt8[Array, "b n s s"], chosen: Bool[Array, " b"]) -> UInt8[Array, "b n s s"]:
    """Mirror masks, each in its own box, with images that `flipped` mirrors."""
    return jnp.where(chosen[:, None, None, None], masks[..., ::-1], masks)
