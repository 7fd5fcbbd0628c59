"""What the training step makes of a batch before the network sees it."""

from collections.abc import Callable

import jax
from jaxtyping import Array

from aa_flax.config.schema import Config, ConfigError
from aa_flax.data.augment import device as augment
from aa_flax.data.augment import erasing, mixing
from aa_flax.data.preprocessing import Preprocessing
from aa_flax.training.losses import target_distribution

Augment = Callable[[dict[str, Array], Array], tuple[Array, Array]]
"""({"image": uint8 [b,h,w,c], "label": int [b]}, random key) -> (images, target distributions [b,classes])."""


def check_pairs(config: Config, devices: int) -> None:
    """ConfigError unless every device gets whole pairs of images where images are mixed."""
    if (config.data.mixup or config.data.cutmix) and config.batch_size % (2 * devices):
        raise ConfigError(
            f"config field 'batch_size' ({config.batch_size}) must divide by 2 times {devices} devices where "
            "'data.mixup' or 'data.cutmix' mix the images of a device by pairs"
        )


def make_augment(config: Config, preprocessing: Preprocessing) -> Augment:
    """The augmentation that runs on the device, as `config` says; pure."""
    data = config.data

    def augmented(batch: dict[str, Array], key: Array) -> tuple[Array, Array]:
        flip_key, cutout_key, mixup_key = jax.random.split(key, 3)
        images = batch["image"]
        if data.on_device and data.crop == "pad":
            crop_key = jax.random.fold_in(key, 7)
            images = augment.random_crop(crop_key, images, data.crop_padding, preprocessing.mean_pixel)
        if data.color_jitter:
            # 0 to 2 would be the three keys above: split and fold_in agree. What came later folds in 3 to 7.
            images = augment.color_jitter(jax.random.fold_in(key, 3), images, data.color_jitter)
        images = preprocessing.normalize(images)
        if data.flip:
            images = augment.random_flip(flip_key, images)
        if data.cutout:
            images = erasing.cutout(cutout_key, images, data.cutout)
        if data.random_erasing:
            erasing_key = jax.random.fold_in(key, 4)
            images = erasing.random_erasing(erasing_key, images, data.random_erasing, fill=data.random_erasing_fill)
        targets = target_distribution(batch["label"], preprocessing.num_classes, config.optimizer.label_smoothing)
        if data.mixup and data.cutmix:
            either_key = jax.random.fold_in(key, 6)
            images, targets = mixing.mixup_or_cutmix(
                either_key, images, targets, data.mixup, data.cutmix, data.cutmix_probability
            )
        elif data.mixup:
            images, targets = mixing.mixup(mixup_key, images, targets, data.mixup)
        elif data.cutmix:
            images, targets = mixing.cutmix(jax.random.fold_in(key, 5), images, targets, data.cutmix)
        if config.optimizer.binary_targets:
            targets = (targets > 0).astype(targets.dtype)
        return images, targets

    return augmented
