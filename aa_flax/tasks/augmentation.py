"""Augmentation of images on the device, in the training step, whatever their targets."""

from collections.abc import Callable

import jax
from jaxtyping import Array

from aa_flax.config.schema import Config
from aa_flax.data.augment import device, erasing
from aa_flax.data.preprocessing import Preprocessing

Augment = Callable[[Array, Array], Array]
"""(uint8 [b, h, w, c], random key) -> normalised [b, h, w, c]."""


def make_augment(config: Config, preprocessing: Preprocessing) -> Augment:
    """Return the augmentation that runs on the device, as `config` says; pure.

    It splits a step's key into three, takes the first two, and folds in 3, 4 and 7; `aa_flax.tasks.mixing` uses others.
    """
    data = config.data

    def augmented(images: Array, key: Array) -> Array:
        flip_key, cutout_key, _ = jax.random.split(key, 3)
        if data.on_device and data.crop == "pad":
            crop_key = jax.random.fold_in(key, 7)
            images = device.random_crop(crop_key, images, data.crop_padding, preprocessing.mean_pixel)
        if data.color_jitter:
            # Not 0 to 2: folding these in would give the three keys above again.
            images = device.color_jitter(jax.random.fold_in(key, 3), images, data.color_jitter)
        images = preprocessing.normalize(images)
        if data.flip:
            images = device.random_flip(flip_key, images)
        if data.cutout:
            images = erasing.cutout(cutout_key, images, data.cutout)
        if data.random_erasing:
            erasing_key = jax.random.fold_in(key, 4)
            images = erasing.random_erasing(erasing_key, images, data.random_erasing, fill=data.random_erasing_fill)
        return images

    return augmented
