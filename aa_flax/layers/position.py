"""Absolute position signals for the input of an attention function (Bello et al., 2019, Tables 7 and 8)."""

from typing import Literal

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

Position = Literal["relative", "none", "sine", "coordconv"]


def with_position(x: Float[Array, "b h w c"], position: Position) -> Float[Array, "b h w _"]:
    """Return `x` with its position signal: none for "relative" and "none", three more channels for "coordconv"."""
    _, h, w, c = x.shape
    if position == "sine":
        return x + sinusoids(h, w, c).astype(x.dtype)[None]
    if position == "coordconv":
        # The sum with zeros is split over the devices as the map is, for meshes that check it.
        channels = jnp.zeros_like(x[..., :1]) + coordinates(h, w).astype(x.dtype)[None]
        return jnp.concatenate([x, channels], -1)
    return x


def sinusoids(height: int, width: int, channels: int) -> Float[Array, "{height} {width} {channels}"]:
    """Return two-dimensional sinusoids to add to a map: half of the channels are for the row, then half for the column.

    Within a half of m channels, channel 2t is sin(p / 10000**(2t/m)) and channel 2t + 1 is the cosine, where p is the
    row or column in pixels (Vaswani et al., 2017, section 3.5; one half for each axis as in the Image Transformer,
    Parmar et al., 2018).
    """
    row_channels = (channels + 1) // 2
    rows = np.broadcast_to(_sinusoid(height, row_channels)[:, None], (height, width, row_channels))
    columns = np.broadcast_to(_sinusoid(width, channels - row_channels)[None], (height, width, channels - row_channels))
    return jnp.asarray(np.concatenate([rows, columns], -1))


def _sinusoid(length: int, channels: int) -> np.ndarray:
    channel = np.arange(channels)
    frequency = 10000.0 ** (-(channel - channel % 2) / max(channels, 1))
    angle = np.arange(length)[:, None] * frequency
    return np.where(channel % 2 == 0, np.sin(angle), np.cos(angle))


def coordinates(height: int, width: int) -> Float[Array, "{height} {width} 3"]:
    """Return channels x, y and r, to be concatenated to a map (CoordConv, Liu et al., 2018).

    x runs over the columns and y over the rows from -1 to 1 (0 on an axis of length one); r = sqrt(x**2 + y**2) is the
    distance from the centre.
    """
    y, x = np.meshgrid(_span(height), _span(width), indexing="ij")
    return jnp.asarray(np.stack([x, y, np.hypot(x, y)], -1))


def _span(length: int) -> np.ndarray:
    return np.linspace(-1.0, 1.0, length) if length > 1 else np.zeros(1)
