"""Between our networks and the state dicts of PyTorch's, name by name."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from flax import nnx

from aa_flax.weights.arrays import fill_arrays, flat_arrays
from aa_flax.weights.errors import WeightsError
from aa_flax.weights.rows import Counterpart, counterpart
from aa_flax.weights.tables import table_of

_IGNORED = "num_batches_tracked"  # counts steps for a momentum that these networks do not use


def load_torch_state_dict(model: nnx.Module, state_dict: Mapping[str, Any], *, source: str) -> None:
    """Fill a network with the weights of the same network in PyTorch, in place.

    Every key is used once (`num_batches_tracked` is ignored) and every parameter and batch statistic is filled.

    Args:
        model: of a family that has a key table for `source`.
        state_dict: PyTorch's names to arrays, anything that numpy takes; axes as they lie there.
        source: "timm" (ResNet, SE-ResNet, `semnasnet_*`) or "torchvision" (ResNet).

    Raises:
        WeightsError: no table, or keys that are missing, left over or of another shape: all of them in one message.
    """
    table = table_of(model, source)
    arrays = flat_arrays(model)
    given = numpy_arrays(state_dict)
    problems, values, used = [], {}, set()
    for path, array in arrays.items():
        found = counterpart(table, path)
        if found is None:
            problems.append(f"{path}: {source} has no such layer")
            continue
        used.add(found.key)
        if found.key not in given:
            problems.append(f"{found.key}: missing (for {path})")
        elif given[found.key].shape != (expected := torch_shape(found, array.shape)):
            problems.append(f"{found.key}: shape {given[found.key].shape}, expected {expected} (for {path})")
        else:
            values[path] = found.leaf.to_ours(given[found.key])
    problems += [f"{key}: the network has no place for it" for key in given if key not in used]
    raise_all(problems, f"{source}'s weights do not fit this {type(model).__name__}")
    fill_arrays(model, values)


def to_torch_state_dict(model: nnx.Module, *, source: str) -> dict[str, np.ndarray]:
    """The network's weights under PyTorch's names, axes as they lie there; the inverse of `load_torch_state_dict`.

    Raises:
        WeightsError: no table, or layers that `source` does not have: all of them in one message.
    """
    table = table_of(model, source)
    values, problems = {}, []
    for path, array in flat_arrays(model).items():
        found = counterpart(table, path)
        if found is None:
            problems.append(f"{path}: {source} has no such layer")
        else:
            values[found.key] = np.ascontiguousarray(found.leaf.to_theirs(np.asarray(array)))
    raise_all(problems, f"this {type(model).__name__} cannot be written for {source}")
    return values


def numpy_arrays(state_dict: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """The state dict's arrays but for those that are ignored; WeightsError that lists what is no array of numbers."""
    arrays, problems = {}, []
    for key, value in state_dict.items():
        if key.endswith(_IGNORED):
            continue
        try:
            arrays[key] = np.asarray(value)
        except (TypeError, ValueError, RuntimeError) as error:  # what NumPy and PyTorch raise
            problems.append(f"{key}: numpy cannot take it ({error})")
            continue
        if arrays[key].dtype.kind not in "fV":
            problems.append(f"{key}: has dtype {arrays[key].dtype}, expected floating point")
    raise_all(problems, "the state dict holds other things than arrays of floating-point numbers")
    return arrays


def torch_shape(found: Counterpart, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape there of an array that has `shape` here."""
    return found.leaf.to_theirs(np.broadcast_to(np.float32(0), shape)).shape


def raise_all(problems: list[str], summary: str) -> None:
    """WeightsError with a line for each problem, if there is any."""
    if problems:
        raise WeightsError("\n  ".join([f"{summary}; {len(problems)} problems:", *problems]))
