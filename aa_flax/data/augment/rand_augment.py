"""RandAugment (Cubuk et al., 2020, Figure 2): a few operations, drawn uniformly, all at one magnitude.

With m = magnitude / 10, and a random sign where the table has ±:

    operation                                          range            increasing
    identity, auto_contrast, equalize
    rotate                                             ± 30 m degrees
    shear_x, shear_y                                   ± 0.3 m
    translate_x, translate_y                           ± 0.45 m of the side
    color, contrast, brightness, sharpness             0.1 + 1.8 m      1 ± 0.9 m
    solarize: the threshold                            256 m            256 - 256 m
    posterize: the number of bits                      4 + 4 m          4 - 4 m, at least 1

The ranges are those of AutoAugment (Cubuk et al., 2019), on which the paper builds; 0.45 of the side stands for its 150
of 331 pixels. The authors' TensorFlow code differs from both papers: it keeps 4 m bits, which is none for small m, and
moves by up to 100 pixels at any image size. With the ranges in the column "range", some operations change an image less
when the magnitude is larger. The column "increasing" has timm's ranges, with which all operations change it more.
Magnitudes above 10, some of which the paper uses, extend the same formulas until a range ends (threshold 256, 8 bits).

DeiT's "rand-m9-mstd0.5-inc1" is timm's variant: increasing ranges, magnitude drawn from N(9, 0.5²) and clipped to
0 ... 10, each operation skipped with probability 1/2. Options of `rand_augment` give these. The list of timm's variant
differs: it also has inversion and a solarisation that adds to dark values, and it has no identity. It fills with
ImageNet's mean pixel.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from aa_flax.data.augment import image_ops
from aa_flax.data.augment.image_ops import Fill, Pixels


class Setting(NamedTuple):
    """How strongly an operation is applied."""

    level: float  # magnitude / 10, called m above
    sign: int  # 1 or -1
    increasing: bool
    fill: Fill


def _factor(s: Setting) -> float:
    return max(0.1, 1 + s.sign * 0.9 * s.level) if s.increasing else 0.1 + 1.8 * s.level


def _threshold(s: Setting) -> int:
    darkest = min(int(256 * s.level), 256)
    return 256 - darkest if s.increasing else darkest


def _bits(s: Setting) -> int:
    return max(4 - int(4 * s.level), 1) if s.increasing else min(4 + int(4 * s.level), 8)


OPERATIONS: dict[str, Callable[[Pixels, Setting], Pixels]] = {
    "identity": lambda image, s: image,
    "auto_contrast": lambda image, s: image_ops.auto_contrast(image),
    "equalize": lambda image, s: image_ops.equalize(image),
    "rotate": lambda image, s: image_ops.rotate(image, s.sign * 30 * s.level, s.fill),
    "solarize": lambda image, s: image_ops.solarize(image, _threshold(s)),
    "color": lambda image, s: image_ops.color(image, _factor(s)),
    "posterize": lambda image, s: image_ops.posterize(image, _bits(s)),
    "contrast": lambda image, s: image_ops.contrast(image, _factor(s)),
    "brightness": lambda image, s: image_ops.brightness(image, _factor(s)),
    "sharpness": lambda image, s: image_ops.sharpness(image, _factor(s)),
    "shear_x": lambda image, s: image_ops.shear_x(image, s.sign * 0.3 * s.level, s.fill),
    "shear_y": lambda image, s: image_ops.shear_y(image, s.sign * 0.3 * s.level, s.fill),
    "translate_x": lambda image, s: image_ops.translate_x(image, s.sign * 0.45 * s.level, s.fill),
    "translate_y": lambda image, s: image_ops.translate_y(image, s.sign * 0.45 * s.level, s.fill),
}
"""The operations by name, in the order of the paper's listing."""


def rand_augment(
    *,
    fill: Fill,
    operations: int = 2,
    magnitude: float = 9.0,
    magnitude_std: float = 0.0,
    increasing: bool = False,
    probability: float = 1.0,
) -> Callable[[Pixels, np.random.Generator], Pixels]:
    """Return a function (image, generator) -> image that applies random operations of `OPERATIONS`.

    Args:
        fill: the pixel for positions outside the image; usually the mean of the data set. AutoAugment has grey (128).
        operations: how many operations are drawn, with replacement, and applied in turn; N in the paper.
        magnitude: M in the paper, where 10 is the end of AutoAugment's ranges.
        magnitude_std: standard deviation of the magnitude, which is drawn for each operation and clipped to
            0 ... max(10, magnitude).
        increasing: use the ranges of the column "increasing" of the table above.
        probability: the probability that an operation that was drawn is applied, independently of the others.

    Raises:
        ValueError: fewer than one operation, a magnitude or deviation below 0, or a probability outside [0, 1].
    """
    for name, value, accepted, fits in (
        ("operations", operations, "at least 1", operations >= 1),
        ("magnitude", magnitude, "at least 0", magnitude >= 0),
        ("magnitude_std", magnitude_std, "at least 0", magnitude_std >= 0),
        ("probability", probability, "a number in [0, 1]", 0 <= probability <= 1),
    ):
        if not fits:
            raise ValueError(f"{name} is {value}, expected {accepted}")
    listed = tuple(OPERATIONS.values())

    def augment(image: Pixels, rng: np.random.Generator) -> Pixels:
        for _ in range(operations):
            operation = listed[rng.integers(len(listed))]
            applied, sign = rng.random() < probability, 1 if rng.random() < 0.5 else -1
            drawn = min(max(rng.normal(magnitude, magnitude_std), 0.0), max(10.0, magnitude))
            if applied:
                image = operation(image, Setting(drawn / 10, sign, increasing, fill))
        return image

    return augment
