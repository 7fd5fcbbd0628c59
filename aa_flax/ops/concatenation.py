"""Concatenation of the channels of a convolution and of attention."""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float

from aa_flax.ops.platform import target_platform


def concatenated(convolve: Callable[..., Array], attend: Callable[..., Array], room: int) -> Float[Array, "b *space _"]:
    """Return `concat[convolve(), attend()]` (Bello et al., 2019, section 3.2).

    A concatenation reads and writes both parts once more. On a TPU, whose tiles of 128 channels have room for those of
    attention, the convolution writes channels of zeros after its own instead, and attention is added to them.

    Args:
        convolve: returns [b, *space, c]; with `room=d`, d channels of zeros follow.
        attend: returns [b, *space, d]; with a map as `added_to`, returns that map with d added to its last channels.
        room: d, or 0 for a convolution that cannot leave room.
    """
    if room and target_platform() == "tpu":
        return attend(added_to=convolve(room=room))
    attended = attend()
    return jnp.concatenate([convolve(), attended], -1)


def convolution_with_room(
    convolution: Callable[..., Array],
    x: Float[Array, "b *space c"],
    kernel: Float[Array, "*window c f"],
    bias: Float[Array, " f"] | None,
    strides: tuple[int, ...],
    padding: Any,
    room: int,
) -> Float[Array, "b *slid _"]:
    """Return a convolution followed by `room` channels of zeros, to which another result is to be added.

    Args:
        convolution: takes the arguments of `jax.lax.conv_general_dilated`.
        x, kernel, bias: of one dtype.
        strides, padding: as `convolution` takes them.
        room: the number of channels of zeros.
    """
    wider = lambda array: jnp.pad(array, (*((0, 0),) * (array.ndim - 1), (0, room)))  # noqa: E731
    space = "DHW"[-(x.ndim - 2) :]
    numbers = (f"N{space}C", f"{space}IO", f"N{space}C")
    y = convolution(x, wider(kernel), strides, padding, dimension_numbers=numbers)
    return y if bias is None else y + wider(jnp.expand_dims(bias, tuple(range(x.ndim - 1))))
