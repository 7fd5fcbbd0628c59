"""Changes of brightness, contrast, saturation and hue, as segmentation is trained with; on the device, in the step.

The ranges and the order are those of mmsegmentation's `PhotoMetricDistortion`, which took them from SSD (Liu et al.,
2016, appendix). There pixels are rounded to whole numbers after each change, and hue is turned by whole steps of 2
degrees; here they are real numbers.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, UInt8

from aa_flax.data.augment.device import RandomKey

BRIGHTNESS = 32.0
"""The most that is added to or taken from each pixel of 0 to 255."""
CONTRAST = SATURATION = (0.5, 1.5)
"""The least and the largest factor."""
HUE = 36.0
"""The most degrees by which hue is turned: 18 in the unit of OpenCV, whose full turn is 180."""


def photometric_distortion(
    key: RandomKey, images: UInt8[Array, "b h w c"] | Float[Array, "b h w c"]
) -> Float[Array, "b h w c"]:
    """Change brightness, contrast, saturation and hue of each image, each with probability one half.

    The order is brightness, contrast, saturation, hue; or, with probability one half, brightness, saturation, hue,
    contrast. Brightness adds to all pixels, contrast multiplies them, and pixels are clipped to 0..255 after each.
    Saturation multiplies that of HSV, which is clipped to 1, and hue turns it.

    Args:
        images: red, green and blue, 0 to 255.

    Returns:
        Pixels, 0 to 255, in float32.

    Raises:
        ValueError: the images have no three channels.
    """
    if images.shape[-1] != 3:
        raise ValueError(f"images have {images.shape[-1]} channels, expected red, green and blue")
    batch = (len(images), 1, 1, 1)
    which, amounts = jax.random.split(key)
    brighter, contrasted, saturated, turned, last = jax.random.bernoulli(which, 0.5, (5, *batch))
    drawn = jax.random.uniform(amounts, (4, *batch), jnp.float32)
    brightness, hue = (2 * drawn[0] - 1) * BRIGHTNESS, (2 * drawn[3] - 1) * HUE
    contrast, saturation = (
        low + (high - low) * part for part, (low, high) in ((drawn[1], CONTRAST), (drawn[2], SATURATION))
    )
    pixels = images.astype(jnp.float32)
    pixels = _chosen(brighter, jnp.clip(pixels + brightness, 0, 255), pixels)
    pixels = _chosen(contrasted & ~last, jnp.clip(pixels * contrast, 0, 255), pixels)
    pixels = _chosen(saturated, scaled_saturation(pixels, saturation), pixels)
    pixels = _chosen(turned, turned_hue(pixels, hue), pixels)
    return _chosen(contrasted & last, jnp.clip(pixels * contrast, 0, 255), pixels)


def scaled_saturation(pixels: Float[Array, "b h w 3"], factors: Float[Array, "b 1 1 1"]) -> Float[Array, "b h w 3"]:
    """Multiply the saturation of HSV, at most to 1; hue and value stay.

    With value v, the largest channel, and saturation s, each channel c has v - c = v s k, where k depends on the hue
    alone. So v - c is multiplied by what s is.
    """
    value, least = pixels.max(-1, keepdims=True), pixels.min(-1, keepdims=True)
    spread = value - least
    # s = spread / value, so s stays within 1 where the factor does within value / spread.
    most = value / jnp.where(spread > 0, spread, 1)
    return value - (value - pixels) * jnp.where(spread > 0, jnp.minimum(factors, most), 1)


def turned_hue(pixels: Float[Array, "b h w 3"], degrees: Float[Array, "b 1 1 1"]) -> Float[Array, "b h w 3"]:
    """Turn the hue of HSV; saturation and value stay."""
    red, green, blue = (pixels[..., channel, None] for channel in range(3))
    value, least = pixels.max(-1, keepdims=True), pixels.min(-1, keepdims=True)
    spread = value - least
    over = jnp.where(spread > 0, spread, 1)
    # In sixths of a turn: red is at 0, green at 2, blue at 4.
    hue = jnp.where(
        value == red,
        (green - blue) / over,
        jnp.where(value == green, 2 + (blue - red) / over, 4 + (red - green) / over),
    )
    # The channel at p is v - spread · max(0, min(1, |hue - p| - 1)), with the distance around the circle.
    distances = jnp.abs(jnp.mod(hue + degrees / 60 - jnp.asarray([[[[0.0, 2.0, 4.0]]]]) + 3, 6) - 3)
    return value - spread * jnp.clip(distances - 1, 0, 1)


def _chosen(chosen: Bool[Array, "b 1 1 1"], changed: Array, pixels: Array) -> Array:
    return jnp.where(chosen, changed, pixels)
