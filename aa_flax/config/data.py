"""Config fields of the data set and of the processing of its images."""

from dataclasses import dataclass
from typing import Literal

from aa_flax.config.fields import field


@dataclass(frozen=True)
class DataConfig:
    """The data set that the network is trained on, and the processing of its images."""

    name: str = field("fashion_mnist_subset", "data set, as in aa_flax.data.load")
    data_dir: str = field(
        "",
        'folder of prepared data sets; "" is $TFDS_DATA_DIR, else ~/tensorflow_datasets',
        may_change=True,
        may_differ=True,
    )
    source_dir: str = field("", "folder with the official files, to prepare from", may_change=True, may_differ=True)
    train_split: str = field("train", "split that is trained on, such as train[:90%]")
    eval_split: str = field("test", "split that is held out")
    allow_overlap: bool = field(False, "let the two splits share examples, whose scores then say less", may_change=True)
    image_size: int | tuple[int, ...] = field(
        0,
        "pixels of a side, or height and width, after cropping or resizing; of signals the sides to which they are "
        "padded; 0 keeps the data set's own size, or that of its largest signal",
        at_least=0,
        accepts=(
            "one number, or height and width such as 480,640, above 0",
            lambda size: isinstance(size, int) or (1 <= len(size) <= 3 and min(size) > 0),
        ),
    )
    train_sizes: tuple[tuple[int, int], ...] = field(
        (),
        "heights and widths of training images, of which each step draws one; () is image_size, which held-out images "
        "have in any case",
        accepts=(
            "heights and widths such as ((480, 640), (640, 480)), above 0",
            lambda sizes: all(len(size) == 2 and min(size) > 0 for size in sizes),
        ),
    )
    resize: Literal["", "squash", "center_crop", "fit"] = field(
        "",
        'how held-out images and photographs get their size: "squash" is the whole image, whatever its aspect; "fit" '
        'keeps the aspect and pads; "" is center_crop with crop="resized", fit with crop="scaled" and squash else',
    )
    crop_fraction: float = field(0.875, "part of the sides that center_crop keeps", above=0, at_most=1)
    interpolation: Literal["bilinear", "bicubic"] = field("bilinear", "how held-out images and photographs are resized")
    crop: Literal["pad", "resized", "scaled", "none"] = field(
        "pad",
        "random crop of training images: after padding; of a random size that is resized; or scaled at random, cut and "
        "padded, which keeps the aspect",
    )
    crop_padding: int = field(4, 'pixels on each side, with crop="pad"', at_least=0)
    scale_range: tuple[float, ...] = field(
        (0.8, 1.2), 'least and largest scale, with crop="scaled"; at 1 the image just fits', above=0
    )
    scale_sides: tuple[int, ...] = field(
        (),
        'with crop="scaled" or resize="fit", pixels of the shorter side at scale 1, and the most of the longer one, as '
        "512,2048; held-out images are smaller where image_size has no room for that; () is what just fits",
        above=0,
        accepts=(
            "the shorter side and the most of the longer one, such as 512,2048",
            lambda sides: not sides or (len(sides) == 2 and sides[0] <= sides[1]),
        ),
    )
    most_of_one_class: float = field(
        1.0,
        'part of a crop that one class may not reach, with crop="scaled" and label maps: up to ten others are tried; 1 '
        "takes every crop",
        above=0,
        at_most=1,
    )
    repeats: int = field(
        1, "copies of each image in a batch, augmented apart; an epoch keeps its number of steps", at_least=1
    )
    auto_augment: Literal["", "rand", "three"] = field(
        "", 'RandAugment or 3-Augment, on the host after the crop; "" is off'
    )
    rand_augment_operations: int = field(2, "operations of RandAugment on each image", at_least=1)
    rand_augment_magnitude: float = field(
        9.0, "how far these go; 10 is the end of the ranges in aa_flax.data.augment.rand_augment", at_least=0
    )
    rand_augment_std: float = field(0.0, "standard deviation of the magnitude", at_least=0)
    rand_augment_increasing: bool = field(False, "use ranges in which a larger magnitude always changes an image more")
    rand_augment_probability: float = field(1.0, "probability that an operation is applied", at_least=0, at_most=1)
    flip: bool = field(True, "mirror images left to right with probability 1/2")
    color_jitter: float = field(
        0.0, "how far brightness, contrast and saturation may stray from 1; 0 is off", at_least=0, at_most=1
    )
    photometric: bool = field(
        False,
        "change brightness, contrast, saturation and hue at random, each with probability 1/2, as "
        "aa_flax.data.augment.photometric does for segmentation",
    )
    cutout: int = field(0, "side in pixels of the square set to the mean; 0 is off", at_least=0)
    random_erasing: float = field(
        0.0, "probability that a box of the image is overwritten; 0 is off", at_least=0, at_most=1
    )
    random_erasing_fill: Literal["noise", "zero"] = field(
        "noise", "what the box is filled with: N(0, 1) for each normalised value, or the mean"
    )
    mixup: float = field(0.0, "alpha of the Beta distribution of mixup; 0 is off", at_least=0)
    cutmix: float = field(0.0, "alpha of the Beta distribution of cutmix; 0 is off", at_least=0)
    cutmix_probability: float = field(
        0.5, "probability that a batch has cutmix and not mixup, where both are on", above=0, below=1
    )
    mean: tuple[float, ...] = field(
        (), "mean of each channel, of pixels in [0, 1], which normalisation subtracts; () is the data set's own"
    )
    std: tuple[float, ...] = field(
        (), "standard deviation of each channel, which normalisation divides by; () is the data set's own", above=0
    )
    cache: bool = field(False, "decode once and keep the images in memory", may_change=True, may_differ=True)
    on_device: bool = field(False, "keep the training split on the devices and crop it there; for small images")
    fast_decode: bool = field(
        False, "decode training JPEGs in about half the time, to nearly the same pixels; needs aa_flax[fast]"
    )
    corrupt_budget: int = field(
        0,
        "damaged training examples that each process may replace by the next one; 0 is strict",
        at_least=0,
        may_change=True,
    )
    num_threads: int = field(
        2,
        "threads that read, decode and crop; 1 is fastest for small cached images",
        at_least=1,
        may_change=True,
        may_differ=True,
    )
