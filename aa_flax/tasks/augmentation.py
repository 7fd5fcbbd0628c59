"""Augmentation of images on the device, in the training step, whatever their targets."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array

from aa_flax.config.schema import Config, ConfigError
from aa_flax.data.augment import device, erasing, photometric
from aa_flax.data.preprocessing import Preprocessing

Augment = Callable[[Array, Array], Array]
"""(uint8 [b, h, w, c], random key) -> normalised [b, h, w, c]."""
PlacedAugment = Callable[[Array, Array | None, Array], tuple[Array, Array]]
"""(uint8 [b, h, w, c], placement [b, 8] or None, random key) -> (normalised [b, h, w, c], which are mirrored [b])."""


def require_targets_in_place(config: Config, targets: str) -> None:
    """Raise ConfigError where an option of the data moves pixels and leaves the targets that lie in them behind.

    Args:
        config: of the run.
        targets: what lies in the image, in a word or two, for the message.
    """
    data = config.data
    refused = {
        "data.on_device": data.on_device,
        "data.mixup": data.mixup,
        "data.cutmix": data.cutmix,
        "data.crop": data.crop == "pad",
        "data.auto_augment": data.auto_augment == "rand",
    }
    if names := [name for name, given in refused.items() if given]:
        raise ConfigError(
            f"config field {names[0]!r} is {getattr(data, names[0].partition('.')[2])!r}, which would leave {targets} "
            f"behind; {config.task.name} has the crops 'scaled', 'resized' and 'none', and what changes colours alone"
        )


def make_augment(config: Config, preprocessing: Preprocessing) -> Augment:
    """Return the augmentation that runs on the device, as `config` says; pure."""
    placed = make_placed_augment(config, preprocessing)
    return lambda images, key: placed(images, None, key)[0]


def make_placed_augment(config: Config, preprocessing: Preprocessing) -> PlacedAugment:
    """Return the augmentation that runs on the device, for images with padding, and targets that lie in them.

    Padding is 0, and images are mirrored within their own width. The function splits a step's key into three, takes the
    first two, and folds in 3, 4, 7 and 9; `aa_flax.tasks.mixing` and `aa_flax.tasks.detection` fold in others.
    """
    data = config.data
    if data.photometric and preprocessing.channels != 3:
        raise ConfigError(
            f"config field 'data.photometric' changes saturation and hue, and the images have {preprocessing.channels} "
            "channel; 'data.color_jitter' changes grey images too"
        )

    def augmented(images: Array, placement: Array | None, key: Array) -> tuple[Array, Array]:
        flip_key, cutout_key, _ = jax.random.split(key, 3)
        if data.on_device and data.crop == "pad":
            crop_key = jax.random.fold_in(key, 7)
            images = device.random_crop(crop_key, images, data.crop_padding, preprocessing.mean_pixel)
        if data.color_jitter:
            # Not 0 to 2: folding these in would give the three keys above again.
            images = device.color_jitter(jax.random.fold_in(key, 3), images, data.color_jitter)
        if data.photometric:
            images = photometric.photometric_distortion(jax.random.fold_in(key, 9), images)
        images = preprocessing.normalize(images, placement)
        flips = jnp.zeros(images.shape[0], bool)
        if data.flip:
            flips = device.flips(flip_key, images.shape[0])
            images = device.flipped(images, flips, None if placement is None else placement[:, 5])
        if data.cutout:
            images = erasing.cutout(cutout_key, images, data.cutout)
        if data.random_erasing:
            erasing_key = jax.random.fold_in(key, 4)
            images = erasing.random_erasing(erasing_key, images, data.random_erasing, fill=data.random_erasing_fill)
        return images, flips

    return augmented
