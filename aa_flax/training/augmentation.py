"""What the training step makes of a batch before the network sees it."""

from collections.abc import Callable

import jax
from jaxtyping import Array

from aa_flax.data import augment
from aa_flax.training.config import Config
from aa_flax.training.losses import target_distribution
from aa_flax.training.preprocessing import Preprocessing

Augment = Callable[[dict[str, Array], Array], tuple[Array, Array]]
"""({"image": uint8 [b,h,w,c], "label": int [b]}, random key) -> (images, target distributions [b,classes])."""


def make_augment(config: Config, preprocessing: Preprocessing) -> Augment:
    """The augmentation that runs on the device, as `config` says; pure."""
    data = config.data

    def augmented(batch: dict[str, Array], key: Array) -> tuple[Array, Array]:
        flip_key, cutout_key, mixup_key = jax.random.split(key, 3)
        images = batch["image"]
        if data.color_jitter:
            # 0 to 2 would be the three keys above: split and fold_in agree.
            images = augment.color_jitter(jax.random.fold_in(key, 3), images, data.color_jitter)
        images = preprocessing.normalize(images)
        if data.flip:
            images = augment.random_flip(flip_key, images)
        if data.cutout:
            images = augment.cutout(cutout_key, images, data.cutout)
        targets = target_distribution(batch["label"], preprocessing.num_classes, config.optimizer.label_smoothing)
        if data.mixup:
            images, targets = augment.mixup(mixup_key, images, targets, data.mixup)
        if config.optimizer.binary_targets:
            targets = (targets > 0).astype(targets.dtype)
        return images, targets

    return augmented
