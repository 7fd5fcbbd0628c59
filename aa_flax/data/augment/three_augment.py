"""3-Augment (Touvron et al., 2022, "DeiT III: Revenge of the ViT", section 3): one of three simple operations."""

import numpy as np

from aa_flax.data.augment import image_ops
from aa_flax.data.augment.image_ops import Pixels


def three_augment(image: Pixels, rng: np.random.Generator) -> Pixels:
    """Make an image grey, solarise it with threshold 128, or blur it by 0.1 to 2 pixels, each with probability 1/3.

    The numbers are those of the authors' code. Their recipe continues with a colour jitter of strength 0.3, which runs
    on the device here. The first operation leaves grey images as they are.
    """
    choice, radius = rng.integers(3), rng.uniform(0.1, 2.0)
    if choice == 0:
        return image_ops.grayscale(image)
    return image_ops.solarize(image, 128) if choice == 1 else image_ops.gaussian_blur(image, radius)
