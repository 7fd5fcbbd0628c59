"""Convolution, by a matrix product where XLA would do worse."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from aa_flax.ops.platform import target_platform
from aa_flax.ops.windows import shifted


def convolution(
    inputs: Float[Array, "b h w c"],
    kernel: Float[Array, "kh kw cg f"],
    strides: Sequence[int],
    padding: Any,
    *,
    lhs_dilation: Sequence[int] | None = None,
    rhs_dilation: Sequence[int] | None = None,
    feature_group_count: int = 1,
    precision: Any = None,
    **options: Any,
) -> Float[Array, "b hs ws f"]:
    """`jax.lax.conv_general_dilated`, by one matrix product where the map is smaller than the kernel or that is 1×1.

    XLA's convolution on a CPU, and its gradient, fall back to plain loops when height or width are below the kernel's,
    as for a 3×3 on the 2×2 maps that ResNet-18 has at 64×64; and for a 1×1 kernel it takes about twice the time of a
    product, which replaces it on a CPU only. The products and their sum are the same ones.

    Args:
        inputs, kernel, strides, padding: as `jax.lax.conv_general_dilated` takes them; padding as pairs, or a string.
        others: the same; `flax.nnx.Conv` passes them when this is its `conv_general_dilated`.
    """
    height, width = kernel.shape[:2]
    pointwise = height == width == 1 and target_platform() == "cpu"
    fits = inputs.shape[1] >= height and inputs.shape[2] >= width
    dilated = any(d != 1 for d in (*(lhs_dilation or ()), *(rhs_dilation or ())))
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
    # A 1×1 kernel needs no padding, whatever it is called.
    padded = inputs if isinstance(padding, str) else jnp.pad(inputs, ((0, 0), *padding, (0, 0)))
    # The channel blocks come in the kernel's own order.
    patches = jnp.concatenate([*shifted(padded, (height, width), strides)], -1)
    return jnp.matmul(patches, kernel.reshape(-1, kernel.shape[-1]), precision=precision)
