"""Augmentation of each image on the host, after its crop and before batches go to the device.

The published recipes mirror an image before these operations; here the device mirrors it after them. The results have
the same distribution, except for RandAugment's shear_y: in a mirrored image it leaves the right column unchanged, not
the left.
"""

from typing import Any

from aa_flax.config.schema import Config
from aa_flax.data.augment.rand_augment import rand_augment
from aa_flax.data.augment.three_augment import three_augment
from aa_flax.data.pipeline import HostAugment
from aa_flax.data.preprocessing import Preprocessing


def crop_settings(config: Config) -> dict[str, Any]:
    """Return what `train_batches` is to do with each image by the names of its arguments, without `augment`."""
    data = config.data
    scaling = dict(scale_sides=data.scale_sides, most_of_one_class=data.most_of_one_class)
    return dict(
        sizes=data.train_sizes,
        crop="none" if data.on_device else data.crop,
        crop_padding=data.crop_padding,
        scale_range=data.scale_range,
        **(scaling if data.crop == "scaled" else {}),
    )


def make_host_augment(config: Config, preprocessing: Preprocessing) -> HostAugment | None:
    """Return the function that `data.auto_augment` names, for `train_batches(augment=...)`; None for none."""
    data = config.data
    if data.auto_augment == "rand":
        return rand_augment(
            fill=preprocessing.mean_pixel,
            operations=data.rand_augment_operations,
            magnitude=data.rand_augment_magnitude,
            magnitude_std=data.rand_augment_std,
            increasing=data.rand_augment_increasing,
            probability=data.rand_augment_probability,
        )
    return three_augment if data.auto_augment == "three" else None
