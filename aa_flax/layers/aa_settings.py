"""Checks of the settings of an attention-augmented convolution."""

from numbers import Integral
from typing import Any, get_args

from aa_flax.layers.position import Position
from aa_flax.ops.axes import AXES, letters
from aa_flax.ops.relative_attention import IMPLEMENTATIONS
from aa_flax.ops.tables import TableResize


def is_shape(given: Any, dimensions: int = 2) -> bool:
    """Return whether this is (h, w), or another number of whole numbers of at least 1."""
    sides = given if isinstance(given, tuple | list) and len(given) == dimensions else (0,)
    return all(isinstance(side, Integral) and not isinstance(side, bool) and int(side) >= 1 for side in sides)


def dimensions_of(spatial_shape: Any) -> int:
    """Return how many dimensions a shape has; raise a ValueError for one that has none, or more than attention has."""
    given = len(spatial_shape) if isinstance(spatial_shape, tuple | list) else 0
    if given not in AXES:
        accepted = " or ".join(f"({letters(each)}{',' if each == 1 else ''})" for each in AXES)
        raise ValueError(f"spatial_shape must be {accepted}, each at least 1, got {spatial_shape!r}")
    return given


def check_settings(layer: Any, kernel_size: int, spatial_shape: tuple[int, ...] | None) -> None:
    """Raise a ValueError that names a setting of an `AAConv` if it is impossible, alone or with the others."""
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
    shape = f"({letters(layer.dimensions)})"
    if spatial_shape is None:
        if layer.position == "relative" and layer.value_depth:
            raise ValueError(f"spatial_shape must be {shape} of the attended map for position='relative', got None")
    elif not is_shape(spatial_shape, layer.dimensions):
        each = "both" if layer.dimensions == 2 else "each"
        raise ValueError(f"spatial_shape must be {shape}, {each} at least 1, got {spatial_shape!r}")
