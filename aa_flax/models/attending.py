"""Check that a network whose name promises attention has layers that attend."""

import dataclasses
import functools
from typing import Any

from absl import logging
from flax import nnx

from aa_flax.layers import AAConv
from aa_flax.models.factories import AugmentedConvFactory


def require_attention(model: nnx.Module, name: str, options: Any) -> tuple[str, ...]:
    """Return the layers of an augmented network that are too narrow to attend, and log a warning that names them.

    The value depth, upsilon times the channels, is rounded to a multiple of the number of heads; in a narrow layer
    that is 0. With upsilon=0 no layer is meant to attend, and the result is empty.

    Args:
        model: any network; the result is empty for one that is not augmented.
        name: name of the network, for messages.
        options: dataclass of the options that the network was built with.

    Raises:
        ValueError: no layer of an augmented network attends.
    """
    fields = (getattr(options, field.name) for field in dataclasses.fields(options))
    augmented = next((value for value in fields if isinstance(value, AugmentedConvFactory)), None)
    if augmented is None or augmented.upsilon == 0:
        return ()
    layers = {
        ".".join(map(str, path)): module for path, module in nnx.iter_modules(model) if isinstance(module, AAConv)
    }
    narrow = tuple(path for path, layer in layers.items() if not layer.attends)
    if layers and not narrow:
        return ()
    depths = "; ".join(
        f"{path} has {layers[path].out_features} channels, key depth {layers[path].key_depth} and value depth 0"
        for path in narrow
    )
    why = (
        f"upsilon={augmented.upsilon} of its channels rounds to 0 with num_heads={augmented.num_heads}, "
        f"value_rounding={augmented.value_rounding!r} ({depths}); a larger upsilon or fewer heads would do"
        if layers
        else f"attention_stages={augmented.attention_stages} names none of its stages"
    )
    if len(narrow) == len(layers):
        raise ValueError(f"no layer of {name} would attend: {why}")
    _warn(f"{len(narrow)} of {len(layers)} layers of {name} that were to attend do not: {why}")
    return narrow


@functools.cache
def _warn(message: str) -> None:
    """Log a warning once in a process, because the same network is often built again, as shapes and as arrays."""
    logging.warning("%s", message)
