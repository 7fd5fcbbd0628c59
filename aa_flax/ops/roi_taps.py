"""Where RoIAlign reads its maps, and with which weights: what all its forms share."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import Array
from jaxtyping import Float, Int32


class Taps(NamedTuple):
    """The locations that the bins of boxes read along one axis: two neighbours for each sample.

    Attributes:
        location: along the axis, always one of the map's.
        weight: its share of the bin; 0 for a sample that is not taken or lies outside.
        samples: of each bin of a box; at most the second dimension of the others.
    """

    location: Int32[Array, "b most 2 n bins"]
    weight: Float[Array, "b most 2 n bins"]
    samples: Int32[Array, "b n"]


class Reads(NamedTuple):
    """What boxes read: of the map with the number `level`, the taps of their rows times those of their columns."""

    level: Int32[Array, "b n"]
    rows: Taps
    columns: Taps


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

    Each bin is the mean of samples in the middles of its equal parts. A sample below -1 or above `length` counts as 0;
    any other one outside takes the location at the border. See `roi_align`.
    """
    dtype = low.dtype
    start = low - 0.5 if aligned else low
    side = high - low if aligned else jnp.maximum(high - low, 1)
    most = sampling_ratio or most_samples
    if sampling_ratio:
        samples = jnp.full_like(side, sampling_ratio)
    else:
        # ceil(side / bins), of a quotient that is not rounded: compilers divide by 7 as they multiply by 1 / 7.
        beyond = bins * jnp.arange(most, dtype=dtype).reshape(1, 1, most)
        samples = (~(side[..., None] <= beyond)).sum(-1, dtype=jnp.int32).astype(dtype)
    start, step, number, last = (array[:, None, :, None] for array in (start, side / bins, samples, length - 1))
    border, parts = last.astype(dtype), jnp.maximum(number, 1)
    sample = jnp.arange(most, dtype=dtype).reshape(1, most, 1, 1)
    at = start + jnp.arange(bins, dtype=dtype).reshape(1, 1, 1, bins) * step + (sample + 0.5) * step / parts
    # Written so that a NaN is not outside: the bins of a box with one are NaN.
    there = (sample < number) & ~((at < -1) | (at > border + 1))
    at = jnp.clip(at, 0, border)
    lower = jnp.floor(at)
    share = at - lower
    weight = jnp.where(there[:, :, None], jnp.stack([1 - share, share], 2) / parts[:, :, None], 0)
    location = lower.astype(jnp.int32)
    location = jnp.clip(jnp.stack([location, location + 1], 2), 0, last[:, :, None])
    return Taps(location, weight, samples.astype(jnp.int32))


def of_level(numbers: Sequence[Any], level: Int32[Array, "b n"], dtype: Any) -> Array:
    """Return for each box the number of its map."""
    chosen = jnp.full_like(level, numbers[0], dtype=dtype)
    for index, number in enumerate(numbers[1:], 1):
        chosen = jnp.where(level == index, jnp.asarray(number, dtype), chosen)
    return chosen
