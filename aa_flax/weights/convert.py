"""Between our networks and the state dicts of PyTorch's, name by name."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from flax import nnx

from aa_flax.layers import AAConv2D, AWConv2D
from aa_flax.weights.arrays import fill_arrays, flat_arrays
from aa_flax.weights.errors import WeightsError
from aa_flax.weights.rows import Counterpart, counterpart
from aa_flax.weights.tables import family_of, table_of

OWN = "aa_flax"
"""The source of weights that this library wrote: our dotted paths, axes as they lie here."""
_WRAPPERS = ("module.", "_orig_mod.", "model.")
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
    if problems:
        raise_all(problems, f"{source}'s weights do not fit this {type(model).__name__}{hint(model, given, source)}")
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
    """The state dict's arrays but for those that are ignored, without what wrappers put before all names.

    WeightsError that lists what is no array of finite numbers.
    """
    if not isinstance(state_dict, Mapping):
        raise WeightsError(
            f"state_dict must map names to arrays, got {type(state_dict).__name__}; read_state_dict(file) reads a "
            "file, and a PyTorch module has state_dict()"
        )
    arrays, problems = {}, []
    for key, value in _without_wrapper(state_dict).items():
        if key.endswith(_IGNORED):
            continue
        try:
            arrays[key] = np.asarray(_plain(value))
        except (TypeError, ValueError, RuntimeError) as error:  # what NumPy and PyTorch raise
            problems.append(f"{key}: numpy cannot take it ({error})")
            continue
        if arrays[key].dtype.kind not in "fV":
            problems.append(f"{key}: has dtype {arrays[key].dtype}, expected floating point")
        elif not np.isfinite(arrays[key].astype(np.float32)).all():
            problems.append(f"{key}: holds infinity or NaN")
    raise_all(problems, "the state dict holds other things than arrays of finite floating-point numbers")
    return arrays


def _without_wrapper(state_dict: Mapping[str, Any]) -> dict[str, Any]:
    """Without the prefixes that training on several devices, compiling and Lightning put before every name."""
    stripped = dict(state_dict)
    while prefix := next((p for p in _WRAPPERS if stripped and all(key.startswith(p) for key in stripped)), ""):
        stripped = {key.removeprefix(prefix): value for key, value in stripped.items()}
    return stripped


def _plain(value: Any) -> Any:
    """A PyTorch tensor off the graph, in a type that NumPy has; anything else as it is. PyTorch is not imported."""
    if not hasattr(value, "detach"):
        return value
    value = value.detach().cpu()
    return value.float() if str(value.dtype) == "torch.bfloat16" else value


def torch_shape(found: Counterpart, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape there of an array that has `shape` here."""
    return found.leaf.to_theirs(np.broadcast_to(np.float32(0), shape)).shape


def hint(model: nnx.Module, given: Mapping[str, Any], source: str) -> str:
    """What may be the reason why nothing fits: names of another source, or a plain network's weights; or nothing."""
    paths = flat_arrays(model)
    names: dict[str, set[str]] = {OWN: set(paths)}
    for other, table in family_of(model).sources.items():
        found = (counterpart(table, path) for path in paths)
        names[other] = {place.key for place in found if place is not None}
    fitting = {other: len(keys & given.keys()) for other, keys in names.items()}
    best = max(fitting, key=lambda other: fitting[other])
    if fitting[best] > 2 * fitting.get(source, 0):
        return f"; these look like the names of source={best!r}"
    augmented = any(isinstance(module, AAConv2D | AWConv2D) for _, module in nnx.iter_modules(model))
    return "; init_from_plain starts an augmented network from a plain one's weights" if augmented else ""


def raise_all(problems: list[str], summary: str) -> None:
    """WeightsError with a line for each problem, if there is any."""
    if problems:
        raise WeightsError("\n  ".join([f"{summary}; {len(problems)} problems:", *problems]))
