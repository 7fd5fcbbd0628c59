"""Convolution, computed as a matrix product or by shifted maps where XLA's convolution is slower."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from aa_flax.ops.depthwise import depthwise_convolution, is_faster_by_shifts
from aa_flax.ops.platform import target_platform
from aa_flax.ops.windows import shifted


def convolution(
    inputs: Float[Array, "b *space c"],
    kernel: Float[Array, "*window cg f"],
    strides: Sequence[int],
    padding: Any,
    *,
    lhs_dilation: Sequence[int] | None = None,
    rhs_dilation: Sequence[int] | None = None,
    feature_group_count: int = 1,
    precision: Any = None,
    **options: Any,
) -> Float[Array, "b *slid f"]:
    """Return `jax.lax.conv_general_dilated`, by a matrix product if the map is smaller than the kernel or that is 1×1.

    It serves signals and volumes too, by kernels of as many dimensions. On a CPU, XLA's convolution and its gradient
    fall back to plain loops if a side of the map is below the kernel's, as for a 3×3 kernel on the 2×2 maps that
    ResNet-18 has at 64×64. For a 1×1 kernel it takes about twice the time of a matrix product, which replaces it on a
    CPU only, and for a depthwise one many times that of `depthwise_convolution`. All add up the same products.

    Args:
        inputs, kernel, strides, padding: as `jax.lax.conv_general_dilated` takes them; padding as pairs, or a string.
        others: as it takes them too; `flax.nnx.Conv` passes them if this function is its `conv_general_dilated`.
    """
    window = kernel.shape[:-2]
    pointwise = {*window} == {1} and target_platform() == "cpu"
    fits = all(length >= size for length, size in zip(inputs.shape[1:-1], window, strict=True))
    dilated = any(d != 1 for d in (*(lhs_dilation or ()), *(rhs_dilation or ())))
    if not dilated and is_faster_by_shifts(inputs, kernel, feature_group_count):
        return depthwise_convolution(inputs, kernel, strides, padding)
    if dilated or feature_group_count != 1 or not (pointwise or (not fits and not isinstance(padding, str))):
        return jax.lax.conv_general_dilated(
            inputs,
            kernel,
            strides,
            padding,
            lhs_dilation=lhs_dilation,
            rhs_dilation=rhs_dilation,
            feature_group_count=feature_group_count,
            precision=precision,
            **options,
        )
    # A string names the padding of a 1×1 kernel here, which needs none.
    padded = inputs if isinstance(padding, str) else jnp.pad(inputs, ((0, 0), *padding, (0, 0)))
    # `shifted` yields the blocks of channels in the order of the kernel's rows and columns.
    patches = jnp.concatenate([*shifted(padded, window, strides)], -1)
    return jnp.matmul(patches, kernel.reshape(-1, kernel.shape[-1]), precision=precision)
