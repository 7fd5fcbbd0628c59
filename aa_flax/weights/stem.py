"""The first convolution of a network whose images have another number of channels than those of the weights."""

import numpy as np
from jaxtyping import Float


def adapted_stem(
    kernel: Float[np.ndarray, "kh kw given out"], channels: int
) -> Float[np.ndarray, "kh kw {channels} out"]:
    """Return the kernel of a first convolution for images of `channels` channels, at least 1, as timm makes it.

    One channel gets the sum over the kernel's own, so that a grey image gives what it gave with its values in every
    channel. Several get the kernel's own in turn, times given / channels, so that an image with one value in all
    channels gives the same where `channels` is a multiple of what is given, and about the same elsewhere. Channels are
    to be normalised as those were that the kernel was trained on.
    """
    given = kernel.shape[2]
    if channels == given:
        return kernel
    wide = kernel.astype(np.float32)
    adapted = (
        wide.sum(2, keepdims=True) if channels == 1 else wide[:, :, np.arange(channels) % given] * (given / channels)
    )
    return adapted.astype(kernel.dtype)
