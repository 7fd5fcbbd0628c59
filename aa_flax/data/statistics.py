"""Mean and standard deviation per channel, of pixels in 0..1, with which images are normalised.

They are taken over all pixels of the training set. Those of `fashion_mnist` and its subset were computed from the
files; those of CIFAR are the published values. All other data sets get ImageNet's, as is usual for photographs; for a
single channel, the mean of ImageNet's three.
"""

Moments = tuple[float, ...]
"""One number for each channel."""

STATISTICS: dict[str, tuple[Moments, Moments]] = {
    "fashion_mnist": ((0.2860,), (0.3530,)),
    "fashion_mnist_subset": ((0.2856,), (0.3525,)),
    "cifar10": ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
    "cifar100": ((0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)),
}
_IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
_IMAGENET_GREY = ((0.449,), (0.226,))


def mean_and_std(name: str, channels: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and standard deviation of the data set `name`, each with `channels` values.

    They are ImageNet's if the data set is not known or has another number of channels.
    """
    mean, std = STATISTICS.get(name, _IMAGENET)
    if len(mean) != channels:
        return _IMAGENET if channels == 3 else _IMAGENET_GREY
    return mean, std


def as_pixel(mean: tuple[float, ...]) -> tuple[int, ...]:
    """Return a mean in 0..1 as the nearest pixel, 0 to 255."""
    return tuple(round(255 * value) for value in mean)
