"""Whole numbers of channels from the paper's ratios; no other file rounds them."""

import math
from fractions import Fraction
from typing import Literal, get_args

ValueRounding = Literal["floor", "nearest"]


def attention_depths(
    out_features: int,
    kappa: float,
    upsilon: float,
    num_heads: int,
    min_key_depth_per_head: int = 20,
    value_rounding: ValueRounding = "floor",
) -> tuple[int, int]:
    """Return the total key and value depth of an attention-augmented convolution, both multiples of `num_heads`.

    key = max(min_key_depth_per_head * num_heads, floor(kappa * out_features / num_heads) * num_heads) and value =
    upsilon * out_features, floored (or rounded to the nearest, halves up) to a multiple of num_heads.

    kappa = dk / Fout and upsilon = dv / Fout are ratios to the layer's output channels (Bello et al., 2019, section
    3.3). The paper states the minimum of 20 per head for CIFAR only. The parameter counts of its ResNets require it
    too; those of its MnasNets require no minimum and the value depth rounded to the nearest. Ratios are read as the
    decimals that were written, so 0.29 of 100 is 29.

    Raises:
        ValueError: negative ratios or minimum, upsilon above 1, fewer than one head or output channel, unknown
            rounding.
    """
    if out_features < 1 or num_heads < 1 or min_key_depth_per_head < 0:
        raise ValueError(
            "out_features and num_heads must be at least 1 and min_key_depth_per_head at least 0, "
            f"got {out_features}, {num_heads} and {min_key_depth_per_head}"
        )
    if not 0 <= kappa < math.inf:
        raise ValueError(f"kappa, the ratio of key depth to out_features, must be finite and at least 0, got {kappa}")
    if not 0 <= upsilon <= 1:
        raise ValueError(f"upsilon, the ratio of value depth to out_features, must lie in [0, 1], got {upsilon}")
    if value_rounding not in get_args(ValueRounding):
        raise ValueError(f"value_rounding must be one of {get_args(ValueRounding)}, got {value_rounding!r}")
    half = Fraction(1, 2) if value_rounding == "nearest" else Fraction(0)
    keys_per_head = int(Fraction(str(kappa)) * out_features / num_heads)
    values_per_head = int(Fraction(str(upsilon)) * out_features / num_heads + half)
    values_per_head = min(values_per_head, out_features // num_heads)
    return max(min_key_depth_per_head, keys_per_head) * num_heads, values_per_head * num_heads
