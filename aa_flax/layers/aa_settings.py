"""Checks of the settings of an attention-augmented convolution."""

from numbers import Integral
from typing import Any, get_args

from aa_flax.layers.position import Position
from aa_flax.ops.relative_attention import IMPLEMENTATIONS
from aa_flax.ops.tables import TableResize


def is_shape(given: Any) -> bool:
    """Return whether this is (h, w), two whole numbers of at least 1."""
    sides = given if isinstance(given, tuple | list) and len(given) == 2 else (0, 0)
    return all(isinstance(side, Integral) and not isinstance(side, bool) and int(side) >= 1 for side in sides)


def check_settings(layer: Any, kernel_size: int, spatial_shape: tuple[int, int] | None) -> None:
    """Raise a ValueError that names a setting of an `AAConv2D` if it is impossible, alone or with the others."""
    if layer.in_features < 1:
        raise ValueError(f"in_features must be at least 1, got {layer.in_features}")
    if not isinstance(kernel_size, Integral) or kernel_size < 1 or kernel_size % 2 == 0:
        raise ValueError(f"kernel_size must be one odd number, got {kernel_size!r}")
    for name in ("strides", "attention_downsample"):
        factor = getattr(layer, name)
        if not isinstance(factor, Integral) or factor < 1:
            raise ValueError(f"{name} must be a whole number of at least 1, got {factor!r}")
    if not 0 <= layer.value_depth <= layer.out_features:
        raise ValueError(f"value_depth must lie in [0, out_features={layer.out_features}], got {layer.value_depth}")
    if layer.value_depth > 0 and layer.key_depth < 1:
        raise ValueError(f"key_depth must be at least num_heads={layer.num_heads}, got {layer.key_depth}")
    for name in ("key_depth", "value_depth"):
        if getattr(layer, name) % layer.num_heads:
            raise ValueError(f"{name}={getattr(layer, name)} must divide by num_heads={layer.num_heads}")
    for name, value, accepted in (
        ("position", layer.position, get_args(Position)),
        ("table_resize", layer.table_resize, get_args(TableResize)),
        ("implementation", layer.implementation, ("auto", *IMPLEMENTATIONS)),
    ):
        if value not in accepted:
            raise ValueError(f"{name} must be one of {accepted}, got {value!r}")
    if spatial_shape is None:
        if layer.position == "relative" and layer.value_depth:
            raise ValueError("spatial_shape must be (h, w) of the attended map for position='relative', got None")
    elif not is_shape(spatial_shape):
        raise ValueError(f"spatial_shape must be (h, w), both at least 1, got {spatial_shape!r}")
