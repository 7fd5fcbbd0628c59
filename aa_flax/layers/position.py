"""Absolute position signals for the input of an attention function (Bello et al., 2019, Tables 7 and 8)."""

import functools
from typing import Literal

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

Position = Literal["relative", "none", "sine", "coordconv"]


def with_position(x: Float[Array, "b *space c"], position: Position) -> Float[Array, "b *space _"]:
    """Return `x` with its position signal: none for "relative" and "none", more channels for "coordconv"."""
    *space, channels = x.shape[1:]
    if position == "sine":
        return x + _sinusoids(tuple(space), channels).astype(x.dtype)[None]
    if position == "coordconv":
        # The sum with zeros is split over the devices as the map is, for meshes that check it.
        own = jnp.zeros_like(x[..., :1]) + _coordinates(tuple(space)).astype(x.dtype)[None]
        return jnp.concatenate([x, own], -1)
    return x


def position_channels(position: Position, dimensions: int) -> int:
    """Return how many channels `with_position` adds to a space of so many dimensions."""
    return dimensions + 1 if position == "coordconv" else 0


def sinusoids(height: int, width: int, channels: int) -> Float[Array, "{height} {width} {channels}"]:
    """Return two-dimensional sinusoids to add to a map: half of the channels are for the row, then half for the column.

    Within a half of m channels, channel 2t is sin(p / 10000**(2t/m)) and channel 2t + 1 is the cosine, where p is the
    row or column in pixels (Vaswani et al., 2017, section 3.5; one half for each axis as in the Image Transformer,
    Parmar et al., 2018). Signals and volumes have as many parts as axes.
    """
    return _sinusoids((height, width), channels)


def _sinusoids(space: tuple[int, ...], channels: int) -> Float[Array, "*space _"]:
    axes = len(space)
    parts = []
    for axis, length in enumerate(space):
        own = channels // axes + (axis < channels % axes)
        shape = [length if other == axis else 1 for other in range(axes)]
        parts.append(np.broadcast_to(_sinusoid(length, own).reshape(*shape, own), (*space, own)))
    return jnp.asarray(np.concatenate(parts, -1))


def _sinusoid(length: int, channels: int) -> np.ndarray:
    channel = np.arange(channels)
    frequency = 10000.0 ** (-(channel - channel % 2) / max(channels, 1))
    angle = np.arange(length)[:, None] * frequency
    return np.where(channel % 2 == 0, np.sin(angle), np.cos(angle))


def coordinates(height: int, width: int) -> Float[Array, "{height} {width} 3"]:
    """Return channels x, y and r, to be concatenated to a map (CoordConv, Liu et al., 2018).

    x runs over the columns and y over the rows from -1 to 1 (0 on an axis of length one); r = sqrt(x**2 + y**2) is the
    distance from the centre. Signals have x and r, volumes x, y, z and r.
    """
    return _coordinates((height, width))


def _coordinates(space: tuple[int, ...]) -> Float[Array, "*space _"]:
    own = np.meshgrid(*map(_span, space), indexing="ij")[::-1]
    return jnp.asarray(np.stack([*own, np.abs(functools.reduce(np.hypot, own))], -1))


def _span(length: int) -> np.ndarray:
    return np.linspace(-1.0, 1.0, length) if length > 1 else np.zeros(1)
