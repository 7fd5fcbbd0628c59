"""Where RoIAlign reads a map along one axis, and with which weights: what all its forms share."""

from typing import NamedTuple

import jax.numpy as jnp
from jax import Array
from jaxtyping import Float, Int32


class Taps(NamedTuple):
    """The locations that the bins of boxes read along one axis: two neighbours for each sample.

    Attributes:
        index: of the location along the axis, always one of the map's.
        weight: its share of the bin, 0 for samples that are not taken or lie outside.
        most: the largest number of samples in a bin of any of these boxes.
    """

    index: Int32[Array, "samples 2 b n bins"]
    weight: Float[Array, "samples 2 b n bins"]
    most: Int32[Array, ""] | int


def taps(
    low: Float[Array, "b n"],
    high: Float[Array, "b n"],
    length: Int32[Array, "b n"],
    *,
    bins: int,
    sampling_ratio: int,
    most_samples: int,
    aligned: bool,
) -> Taps:
    """Return the taps of boxes that reach from `low` to `high`, in units of the locations of a map of this `length`.

    A bin is the mean of samples at the middles of its equal parts. With `aligned`, location 0 is the middle of the
    first cell, half a unit from the map's edge; else it is at the edge, and no side is shorter than 1. A sample below
    -1 or above `length` counts as 0; others outside take the nearest location. So torchvision and detectron2 have it.
    """
    dtype = low.dtype
    start = low - 0.5 if aligned else low
    side = high - low if aligned else jnp.maximum(high - low, 1)
    step = side / bins
    if sampling_ratio:
        samples, most = sampling_ratio, sampling_ratio
        count = jnp.full(side.shape, sampling_ratio, dtype)
    else:
        samples = most_samples
        count = jnp.clip(jnp.ceil(step), 0, most_samples)
        most = jnp.max(jnp.where(jnp.isnan(count), 0, count), initial=0).astype(jnp.int32)
    count, step, start, last = (
        array[None, ..., None] for array in (count, step, start, (length - 1).astype(dtype))
    )  # [1, b, n, 1]
    sample = jnp.arange(samples, dtype=dtype)[:, None, None, None]
    number = jnp.maximum(count, 1)
    at = start + jnp.arange(bins, dtype=dtype) * step + (sample + 0.5) * step / number
    taken = (sample < number if sampling_ratio else sample < count) & ~((at < -1) | (at > last + 1))
    at = jnp.clip(at, 0, last)
    lower = jnp.floor(at)
    share = at - lower
    index = jnp.stack([lower, jnp.minimum(lower + 1, last)], 1)
    weight = jnp.stack([1 - share, share], 1) / number[:, None]
    # The whole number of a NaN may be any; its weight stays NaN.
    index = jnp.clip(index.astype(jnp.int32), 0, (length - 1)[None, None, ..., None])
    return Taps(index, jnp.where(taken[:, None], weight, 0), most)
