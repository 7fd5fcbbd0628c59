"""Augmentation on the device: pure functions on a batch, meant to run inside the jitted train step.

Each keeps shape and dtype, and runs on sharded batches without moving images between chips, but for mixup's one step
along the batch.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Key, UInt8, UInt32

RandomKey = Key[Array, ""] | UInt32[Array, "2"]


def normalize(
    images: UInt8[Array, "b h w c"],
    mean: Sequence[float],
    std: Sequence[float],
    dtype: DTypeLike = jnp.float32,
) -> Float[Array, "b h w c"]:
    """(images / 255 - mean) / std, per channel.

    Args:
        images: pixels, 0 to 255.
        mean, std: one value a channel, of pixels in 0..1.
        dtype: of the result; computed in at least float32.

    Raises:
        ValueError: not one value a channel.
    """
    channels = images.shape[-1]
    if len(mean) != channels or len(std) != channels:
        raise ValueError(f"mean and std have {len(mean)} and {len(std)} values, expected {channels}, one a channel")
    compute = jnp.promote_types(jnp.float32, dtype)
    center, scale = (jnp.asarray(values, compute).reshape(1, 1, 1, channels) for values in (mean, std))
    return ((images.astype(compute) / 255 - center) / scale).astype(dtype)


def random_flip(key: RandomKey, images: Array) -> Array:
    """Mirrors each image [b, h, w, c] left to right with probability one half."""
    flip = jax.random.bernoulli(key, 0.5, (images.shape[0], 1, 1, 1))
    return jnp.where(flip, images[:, :, ::-1], images)


def cutout(key: RandomKey, images: Float[Array, "b h w c"], size: int) -> Float[Array, "b h w c"]:
    """Sets a size × size square of each image to zero, the mean of normalised pixels (DeVries and Taylor, 2017).

    The centre is uniform over all pixels, so part of the square may lie outside the image, as in the paper.

    Raises:
        ValueError: size below 1.
    """
    if size < 1:
        raise ValueError(f"size is {size}, expected at least 1")
    batch, height, width, _ = images.shape
    row_key, column_key = jax.random.split(key)
    rows = _in_patch(row_key, batch, height, size).reshape(batch, height, 1, 1)
    columns = _in_patch(column_key, batch, width, size).reshape(batch, 1, width, 1)
    return jnp.where(rows & columns, jnp.zeros((), images.dtype), images)


def mixup(
    key: RandomKey,
    images: Float[Array, "b h w c"],
    one_hot_labels: Float[Array, "b classes"],
    alpha: float,
) -> tuple[Float[Array, "b h w c"], Float[Array, "b classes"]]:
    """λ x + (1 - λ) x', and the labels likewise, λ drawn from Beta(alpha, alpha) (Zhang et al., 2018, equation 1).

    One λ for the batch, as in the authors' experiments. The partner x' is the neighbour in the batch: the order is
    random already, and reversing or permuting a sharded batch would send every image to another chip.

    Raises:
        ValueError: alpha not above 0.
    """
    if alpha <= 0:
        raise ValueError(f"alpha is {alpha}, expected more than 0")
    compute = jnp.promote_types(jnp.float32, images.dtype)
    weight = jax.random.beta(key, alpha, alpha, dtype=compute)

    def mixed(values: Array) -> Array:
        partner = jnp.roll(values, 1, axis=0)
        return (weight * values + (1 - weight) * partner).astype(values.dtype)

    return mixed(images), mixed(one_hot_labels)


def _in_patch(key: RandomKey, batch: int, length: int, size: int) -> Bool[Array, "b length"]:
    """Which positions of one axis lie within the patch, for each image."""
    start = jax.random.randint(key, (batch, 1), 0, length) - size // 2
    position = jnp.arange(length)[None, :]
    return (position >= start) & (position < start + size)
