"""Conversion between our networks and the state dicts of PyTorch's networks, name by name."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from flax import nnx

from aa_flax.layers import AAConv2D, AWConv2D
from aa_flax.weights.arrays import fill_arrays, flat_arrays
from aa_flax.weights.errors import WeightsError
from aa_flax.weights.rows import Counterpart, counterpart
from aa_flax.weights.tables import classifier_keys, family_of, table_of

OWN = "aa_flax"
"""The source of weights that this library wrote, with our dotted paths and order of axes."""
_WRAPPERS = ("module.", "_orig_mod.", "model.")
_IGNORED = "num_batches_tracked"  # a count of steps, for a momentum that these networks do not use


def load_torch_state_dict(model: nnx.Module, state_dict: Mapping[str, Any], *, source: str) -> None:
    """Fill a network with the weights of the same network in PyTorch, in place.

    Every key is used once (`num_batches_tracked` is ignored) and every parameter and batch statistic is filled. A
    network without a classifier (`num_classes=0`) takes the weights of one that has it, and leaves the classifier's
    keys unused.

    Args:
        model: a network of a family that has a key table for `source`.
        state_dict: arrays by PyTorch's names, of any type that numpy accepts, with PyTorch's order of axes.
        source: "timm" (ResNet, SE-ResNet, `semnasnet_*`), "torchvision" (ResNet) or "deit" (the authors' PatchConvNet).

    Raises:
        WeightsError: there is no table, or keys are missing, left over or of another shape; one message lists them all.
    """
    table = table_of(model, source)
    arrays = flat_arrays(model)
    given = numpy_arrays(state_dict)
    used = classifier_keys(model, source, given) if getattr(model, "head", None) is None else set()
    problems, values = [], {}
    for path, array in arrays.items():
        found = counterpart(table, path, array.shape)
        if found is None:
            problems.append(f"{path}: {source} has no such layer")
            continue
        used.update(found.keys)
        wrong = misfits(given, found, path, array.shape)
        if wrong:
            problems += wrong
        else:
            values[path] = found.to_ours([given[key] for key in found.keys])
    problems += [f"{key}: the network has no such array" for key in given if key not in used]
    if problems:
        raise_all(problems, f"{source}'s weights do not fit this {type(model).__name__}{hint(model, given, source)}")
    fill_arrays(model, values)


def to_torch_state_dict(model: nnx.Module, *, source: str) -> dict[str, np.ndarray]:
    """Return the network's weights by PyTorch's names, with PyTorch's order of axes.

    This is the inverse of `load_torch_state_dict`.

    Raises:
        WeightsError: there is no table, or `source` lacks layers; one message lists them all.
    """
    table = table_of(model, source)
    values: dict[str, np.ndarray] = {}
    problems = []
    for path, array in flat_arrays(model).items():
        found = counterpart(table, path, array.shape)
        if found is None:
            problems.append(f"{path}: {source} has no such layer")
        else:
            values |= {key: np.ascontiguousarray(part) for key, part in found.to_theirs(np.asarray(array)).items()}
    raise_all(problems, f"this {type(model).__name__} cannot be written for {source}")
    return values


def numpy_arrays(state_dict: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Return the arrays of a state dict, without those that are ignored and without wrappers' prefixes of the names.

    Raises:
        WeightsError: `state_dict` is no mapping, or entries are no arrays of finite floating-point numbers; one message
            lists them all.
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
    """Remove the prefixes that training on several devices, compiling and Lightning put before every name."""
    stripped = dict(state_dict)
    while prefix := next((p for p in _WRAPPERS if stripped and all(key.startswith(p) for key in stripped)), ""):
        stripped = {key.removeprefix(prefix): value for key, value in stripped.items()}
    return stripped


def _plain(value: Any) -> Any:
    """Detach a PyTorch tensor, in a dtype that NumPy has, without importing PyTorch; return anything else as it is."""
    if not hasattr(value, "detach"):
        return value
    value = value.detach().cpu()
    return value.float() if str(value.dtype) == "torch.bfloat16" else value


def misfits(given: Mapping[str, np.ndarray], found: Counterpart, path: str, shape: tuple[int, ...]) -> list[str]:
    """Return a line for each array that is missing or does not have the shape that our array at `path` needs.

    Args:
        given: the arrays by PyTorch's names.
        found: the counterpart of our array.
        path: the dotted path of our array.
        shape: the shape of our array.
    """
    expected = found.shape(shape)
    missing = [f"{key}: missing (for {path})" for key in found.keys if key not in given]
    return missing + [
        f"{key}: shape {given[key].shape}, expected {expected} (for {path})"
        for key in found.keys
        if key in given and given[key].shape != expected
    ]


def hint(model: nnx.Module, given: Mapping[str, Any], source: str) -> str:
    """Return a hint, for the end of an error message, at why weights do not fit; "" if there is none.

    The names may be those of another source, or the weights those of a plain network.
    """
    arrays = flat_arrays(model)
    names: dict[str, set[str]] = {OWN: set(arrays)}
    for other, table in family_of(model).sources.items():
        found = (counterpart(table, path, array.shape) for path, array in arrays.items())
        names[other] = {key for place in found if place is not None for key in place.keys}
    fitting = {other: len(keys & given.keys()) for other, keys in names.items()}
    best = max(fitting, key=lambda other: fitting[other])
    if fitting[best] > 2 * fitting.get(source, 0):
        return f"; these look like the names of source={best!r}"
    augmented = any(isinstance(module, AAConv2D | AWConv2D) for _, module in nnx.iter_modules(model))
    return "; init_from_plain starts an augmented network from a plain one's weights" if augmented else ""


def raise_all(problems: list[str], summary: str) -> None:
    """Raise WeightsError with a line for each problem, if there are any."""
    if problems:
        raise WeightsError("\n  ".join([f"{summary}; {len(problems)} problems:", *problems]))
