"""Mixing the images and the target distributions of a batch."""

import jax
from jaxtyping import Array

from aa_flax.config.schema import Config, ConfigError, DataConfig
from aa_flax.data.augment import mixing


def check_pairs(config: Config, devices: int) -> None:
    """Raise ConfigError unless every device gets whole pairs of images, if images are mixed."""
    if (config.data.mixup or config.data.cutmix) and config.batch_size % (2 * devices):
        raise ConfigError(
            f"config field 'batch_size' ({config.batch_size}) must divide by 2 times {devices} devices where "
            "'data.mixup' or 'data.cutmix' mix the images of a device by pairs"
        )


def mixed(data: DataConfig, images: Array, targets: Array, key: Array) -> tuple[Array, Array]:
    """Return images [b, h, w, c] and target distributions [b, classes] with mixup, cutmix or one of both.

    It splits a step's key into three and takes the last, or folds in 5 or 6.
    """
    if data.mixup and data.cutmix:
        either_key = jax.random.fold_in(key, 6)
        return mixing.mixup_or_cutmix(either_key, images, targets, data.mixup, data.cutmix, data.cutmix_probability)
    if data.mixup:
        return mixing.mixup(jax.random.split(key, 3)[2], images, targets, data.mixup)
    if data.cutmix:
        return mixing.cutmix(jax.random.fold_in(key, 5), images, targets, data.cutmix)
    return images, targets
