"""Mixup and cutmix on the device: they mix each image and its target with those of a partner.

Partners are neighbours in the batch: images 0 and 1, 2 and 3, and so on. The order of a batch is already random, so
neighbours serve as well as any other pairing. A batch that is split over devices by whole pairs is mixed without moving
an image to another device, and the pairs do not depend on the number of devices. timm and DeiT pair each image with the
one at the same position of the reversed batch, which would move every image to another device here.

Random numbers are drawn once for the whole batch, as in the code of both papers.
"""

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Shaped

from aa_flax.data.augment.device import RandomKey
from aa_flax.precision import at_least_float32

Mixed = tuple[Float[Array, "b h w c"], Float[Array, "b classes"]]


def mixup(key: RandomKey, images: Float[Array, "b h w c"], targets: Float[Array, "b classes"], alpha: float) -> Mixed:
    """Return λ x + (1 - λ) x' of images and of targets, λ drawn from Beta(alpha, alpha) (Zhang et al., 2018, eq. 1).

    Raises:
        ValueError: alpha not above 0, or an odd number of images.
    """
    return _mixed(images, targets, *_mixup_weights(key, images, alpha))


def cutmix(key: RandomKey, images: Float[Array, "b h w c"], targets: Float[Array, "b classes"], alpha: float) -> Mixed:
    """Replace a box of x by that of x' and mix the targets with λ, the fraction outside the box (Yun et al., 2019).

    With λ' drawn from Beta(alpha, alpha), the sides of the box are √(1 - λ') times the image's, rounded down; its
    centre is uniform over all pixels; the part outside the image is cut off (equation 2). Hence λ is not λ' but
    1 - area of the remaining box / area of the image, as in the authors' code.

    Raises:
        ValueError: alpha not above 0, or an odd number of images.
    """
    return _mixed(images, targets, *_cutmix_weights(key, images, alpha))


def mixup_or_cutmix(
    key: RandomKey,
    images: Float[Array, "b h w c"],
    targets: Float[Array, "b classes"],
    mixup_alpha: float,
    cutmix_alpha: float,
    cutmix_probability: float,
) -> Mixed:
    """Apply cutmix with the given probability, else mixup, to the whole batch, as DeiT (Touvron et al., 2021) does.

    The result is that of `mixup(split(key, 3)[0], ...)` or of `cutmix(split(key, 3)[1], ...)`.

    Raises:
        ValueError: an alpha not above 0, or an odd number of images.
    """
    mixup_key, cutmix_key, choice_key = jax.random.split(key, 3)
    mixup_pixels, mixup_target = _mixup_weights(mixup_key, images, mixup_alpha)
    cutmix_pixels, cutmix_target = _cutmix_weights(cutmix_key, images, cutmix_alpha)
    cuts = jax.random.bernoulli(choice_key, cutmix_probability)
    # The choice is made between the weights, so that the images are read once.
    pixels = jnp.where(cuts, cutmix_pixels, mixup_pixels)
    return _mixed(images, targets, pixels, jnp.where(cuts, cutmix_target, mixup_target))


def partners(values: Shaped[Array, "b ..."]) -> Shaped[Array, "b ..."]:
    """Return each value's partner along the batch: those at 1, 0, 3, 2, 5, 4, ...

    Raises:
        ValueError: an odd number of values.
    """
    if values.shape[0] % 2:
        raise ValueError(f"images to mix come in pairs, so that their number must be even, got {values.shape[0]}")
    pairs = values.reshape(values.shape[0] // 2, 2, *values.shape[1:])
    return pairs[:, ::-1].reshape(values.shape)


def _mixed(
    images: Array, targets: Array, pixel_weight: Float[Array, "#h #w 1"], target_weight: Float[Array, ""]
) -> Mixed:
    """Return images and targets mixed with their partners'; the weights are those of the images' own values."""

    def blended(values: Array, weight: Array) -> Array:
        compute = at_least_float32(values.dtype, weight.dtype)
        own, other, weight = (each.astype(compute) for each in (values, partners(values), weight))
        return (weight * own + (1 - weight) * other).astype(values.dtype)

    return blended(images, pixel_weight[None]), blended(targets, target_weight)


def _mixup_weights(key: RandomKey, images: Array, alpha: float) -> tuple[Float[Array, "1 1 1"], Float[Array, ""]]:
    weight = _beta(key, alpha, _compute(images))
    return weight.reshape(1, 1, 1), weight


def _cutmix_weights(key: RandomKey, images: Array, alpha: float) -> tuple[Float[Array, "h w 1"], Float[Array, ""]]:
    beta_key, row_key, column_key = jax.random.split(key, 3)
    compute = _compute(images)
    fraction = jnp.sqrt(1 - _beta(beta_key, alpha, compute))

    def outside(key: RandomKey, length: int) -> Array:
        side = jnp.floor(length * fraction).astype(jnp.int32)
        start = jax.random.randint(key, (), 0, length) - side // 2
        position = jnp.arange(length)
        return (position < start) | (position >= start + side)

    rows, columns = outside(row_key, images.shape[1]), outside(column_key, images.shape[2])
    kept = (rows[:, None, None] | columns[None, :, None]).astype(compute)
    return kept, kept.mean()


def _beta(key: RandomKey, alpha: float, dtype: DTypeLike) -> Float[Array, ""]:
    if alpha <= 0:
        raise ValueError(f"alpha is {alpha}, expected more than 0")
    return jax.random.beta(key, alpha, alpha, dtype=dtype)


def _compute(images: Array) -> DTypeLike:
    return at_least_float32(images.dtype)
