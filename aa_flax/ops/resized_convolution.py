"""Convolution of maps of several sizes that are resized to one of them and joined first."""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from aa_flax.ops.convolution import convolution
from aa_flax.ops.mesh import over_batch
from aa_flax.ops.platform import target_platform
from aa_flax.ops.resampling import bilinear_weights, resize_bilinear

_NUMBERS = ("NHWC", "HWIO", "NHWC")


def resized_convolution(
    maps: Sequence[Float[Array, "b _ _ _"]], kernel: Float[Array, "kh kw c f"]
) -> Float[Array, "b h w f"]:
    """Return the convolution of the concatenation of maps, bilinearly resized to the first one.

    Its stride is 1, and zeros are around the map, so that it keeps its size. By definition it is

        convolution(concatenate([resize_bilinear(x, h, w) for x in maps], -1), kernel)

    Interpolation mixes locations and each tap of the kernel mixes channels, so that they commute. On a CPU, channels
    of a smaller map are mixed at its own size where that needs fewer multiplications, half as many in all for maps at
    strides 4, 8, 16 and 32. The sums are the same up to rounding; in 16 bits, which would round what is interpolated
    once more, and on other devices, it is computed as defined.

    Args:
        maps: [b, h, w, c] of the result's size, then others, whose channels follow in the same order in the kernel.
        kernel: height and width odd.

    Raises:
        ValueError: an even kernel, or one that does not have the maps' channels.
    """
    rows, columns, channels, _ = kernel.shape
    if not (rows % 2 and columns % 2) or channels != sum(x.shape[-1] for x in maps):
        raise ValueError(
            f"kernel must have odd sides and {sum(x.shape[-1] for x in maps)} channels, got {tuple(kernel.shape)}"
        )
    kernels = jnp.split(kernel, np.cumsum([x.shape[-1] for x in maps])[:-1], 2)
    exact = target_platform() == "cpu" and jnp.finfo(kernel.dtype).bits > 16
    apart = (exact and _needs_fewer(x, part, maps[0].shape[1:3]) for x, part in zip(maps, kernels, strict=True))
    return convolution_of_resized(list(maps), kernels, tuple(apart))


@functools.partial(jax.jit, static_argnums=2)  # the name lets FLOP counts take what the definition needs
def convolution_of_resized(maps: list[Array], kernels: list[Array], apart: tuple[bool, ...]) -> Array:
    """Return `resized_convolution` of maps with the part of the kernel for each; those `apart` at their own size."""
    size = maps[0].shape[1:3]
    pairs = [*zip(maps, kernels, strict=True)]
    # The first map, which has the result's size, is always among these.
    joined = [(resize_bilinear(x, *size), part) for (x, part), small in zip(pairs, apart, strict=True) if not small]
    images, kernel = (jnp.concatenate([pair[i] for pair in joined], axis) for i, axis in enumerate((3, 2)))
    around = [(side // 2, side // 2) for side in kernel.shape[:2]]
    y = convolution(images, kernel, (1, 1), around, dimension_numbers=_NUMBERS)
    at_its_own_size = over_batch(functools.partial(_at_its_own_size, size=size), (True, False))
    return sum((at_its_own_size(*pair) for pair, small in zip(pairs, apart, strict=True) if small), y)


def _needs_fewer(x: Any, kernel: Any, size: Sequence[int]) -> bool:
    """Return whether `_at_its_own_size` needs fewer multiplications than the convolution of the resized map."""
    (_, h, w, channels), (rows, columns, _, features), (height, width) = x.shape, kernel.shape, size
    mixing = h * w * rows * columns * channels * features
    placing = (h * width * w * columns + height * h * width) * rows * features
    return mixing + placing < height * width * rows * columns * channels * features


def _at_its_own_size(
    x: Float[Array, "b hs ws c"], kernel: Float[Array, "kh kw c f"], size: Sequence[int]
) -> Float[Array, "b h w f"]:
    """Return the convolution of a resized map: what each tap makes of the map, interpolated, shifted and added up."""
    batch, h, w, channels = x.shape
    rows, columns, _, features = kernel.shape
    height, width = size
    down = jnp.asarray(_taps(h, height, rows).reshape(height, -1), x.dtype)
    across = jnp.asarray(_taps(w, width, columns).swapaxes(1, 2).reshape(width, -1), x.dtype)
    across = jnp.broadcast_to(across, (batch * h, *across.shape))
    lines = []
    for row in kernel:
        mixed = jnp.matmul(x.reshape(-1, channels), row.swapaxes(0, 1).reshape(channels, -1))
        placed = jnp.matmul(across, mixed.reshape(batch * h, w * columns, features))
        lines.append(placed.reshape(batch, h, width * features))
    down = jnp.broadcast_to(down, (batch, *down.shape))
    return jnp.matmul(down, jnp.concatenate(lines, 1)).reshape(batch, height, width, features)


def _taps(length: int, new_length: int, taps: int) -> Float[np.ndarray, "{new_length} {taps} {length}"]:
    """Return the weight of each location of an axis in what each tap of a kernel reads of the resized axis."""
    weights = np.pad(bilinear_weights(length, new_length), ((taps // 2, taps // 2), (0, 0)))
    return np.stack([weights[tap : tap + new_length] for tap in range(taps)], 1)
