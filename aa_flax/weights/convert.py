"""Between our networks and the state dicts of PyTorch's, name by name."""

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
"""The source of weights that this library wrote: our dotted paths, axes as they lie here."""
_WRAPPERS = ("module.", "_orig_mod.", "model.")
_IGNORED = "num_batches_tracked"  # counts steps for a momentum that these networks do not use


def load_torch_state_dict(model: nnx.Module, state_dict: Mapping[str, Any], *, source: str) -> None:
    """Fill a network with the weights of the same network in PyTorch, in place.

    Every key is used once (`num_batches_tracked` is ignored) and every parameter and batch statistic is filled. A
    network without classifier (`num_classes=0`) takes the weights of one with, and leaves the classifier's keys unused.

    Args:
        model: of a family that has a key table for `source`.
        state_dict: PyTorch's names to arrays, anything that numpy takes; axes as they lie there.
        source: "timm" (ResNet, SE-ResNet, `semnasnet_*`), "torchvision" (ResNet) or "deit" (the authors' PatchConvNet).

    Raises:
        WeightsError: no table, or keys that are missing, left over or of another shape: all of them in one message.
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


def misfits(given: Mapping[str, np.ndarray], found: Counterpart, path: str, shape: tuple[int, ...]) -> list[str]:
    """A line for each array that is missing, or that is not what ours of that shape at `path` is made of."""
    expected = found.shape(shape)
    missing = [f"{key}: missing (for {path})" for key in found.keys if key not in given]
    return missing + [
        f"{key}: shape {given[key].shape}, expected {expected} (for {path})"
        for key in found.keys
        if key in given and given[key].shape != expected
    ]


def hint(model: nnx.Module, given: Mapping[str, Any], source: str) -> str:
    """What may be the reason why nothing fits: names of another source, or a plain network's weights; or nothing."""
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
    """WeightsError with a line for each problem, if there is any."""
    if problems:
        raise WeightsError("\n  ".join([f"{summary}; {len(problems)} problems:", *problems]))
