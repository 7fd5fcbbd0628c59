"""Conversion between our networks and the state dicts of PyTorch's networks, name by name."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from flax import nnx

from aa_flax.layers import AAConv2D, AWConv2D
from aa_flax.weights.arrays import fill_arrays, flat_arrays
from aa_flax.weights.described import check_description
from aa_flax.weights.errors import raise_all
from aa_flax.weights.given import given_arrays
from aa_flax.weights.report import Report
from aa_flax.weights.rows import Counterpart, Leaf, Row, counterpart
from aa_flax.weights.stem import adapted_stem
from aa_flax.weights.tables import classifier_keys, family_of, respelt, table_of

OWN = "aa_flax"
"""The source of weights that this library wrote, with our dotted paths and order of axes."""


def load_torch_state_dict(
    model: nnx.Module, state_dict: Mapping[str, Any], *, source: str, adapt_stem: bool = False
) -> Report:
    """Fill a network with the weights of the same network in PyTorch, in place.

    Every key is used once and every parameter and batch statistic is filled. A prefix that all names share, such as
    "module." or "model.backbone.", is taken off; counters such as `num_batches_tracked` are left out. A network without
    a classifier (`num_classes=0`) takes the weights of one that has it, and leaves the classifier's keys unused.

    Args:
        model: a network of a family that has a key table for `source`.
        state_dict: arrays by PyTorch's names, of any type that numpy accepts, with PyTorch's order of axes. One that
            `read_state_dict` returned also knows what a `config.json` of timm beside its file says.
        source: "timm" (ResNet, SE-ResNet, `semnasnet_*`), "torchvision" (ResNet; around it RetinaNet, Faster and Mask
            R-CNN, in their first version, for flavor "torchvision") or "deit" (the authors' PatchConvNet).
        adapt_stem: make the first convolution for the network's number of channels where that of the weights has
            another (`aa_flax.weights.stem.adapted_stem`); otherwise another number is an error.

    Returns:
        What was taken, and in notes what was done to the names and the stem.

    Raises:
        WeightsError: there is no table; or keys are missing, left over or of another shape, and one message lists them
            all; or the weights are said to be of a network that may have the same names and compute something else.
    """
    table = table_of(model, source)
    arrays = flat_arrays(model)
    places = {path: counterpart(table, path, array.shape) for path, array in arrays.items()}
    names = [key for place in places.values() if place for key in place.keys]
    given, prefix, others, notes = given_arrays(respelt(model, source, state_dict), names)
    notes = (*said(model, state_dict, source), *notes)
    if adapt_stem:
        notes += adapt(model, given, source)
    headless = getattr(model, "head", None) is None
    classifier = classifier_keys(model, source, [*given, *others]) if headless else set()
    used = {*classifier}
    problems, values = [], {}
    for path, array in arrays.items():
        found = places[path]
        if found is None:
            problems.append(f"{path}: {source} has no such layer")
            continue
        used.update(found.keys)
        wrong = misfits(given, found, path, array.shape)
        if wrong:
            problems += wrong
        else:
            values[path] = found.to_ours([given[key] for key in found.keys])
    left = [key for key in given if key not in used] + [key for key in others if key not in classifier]
    problems += [f"{key}: the network has no such array" for key in left]
    if problems:
        why = hint(model, given, source)
        raise_all(problems, f"{source}'s weights{without(prefix)} do not fit this {type(model).__name__}{why}")
    fill_arrays(model, values)
    unused = [prefix + key for key in given if key in classifier] + [key for key in others if key in classifier]
    return Report(loaded=tuple(values), unused=tuple(unused), notes=notes)


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


def said(model: nnx.Module, state_dict: Mapping[str, Any], source: str) -> tuple[str, ...]:
    """Return the notes that a state dict brings; raise WeightsError if it is said to be of another network."""
    description = getattr(state_dict, "description", None)
    notes = (*getattr(state_dict, "notes", ()), *check_description(model, description, source))
    # torchvision's detectors have FrozenBatchNorm2d, without counters, only where they start from weights of its own.
    counted = any("backbone." in str(name) and str(name).endswith(".num_batches_tracked") for name in state_dict)
    if source == "torchvision" and counted and getattr(getattr(model, "options", None), "batch_norm_epsilon", 1) == 0:
        notes += (
            "its backbone's norms count batches, and so are of epsilon 1e-5, while this network's have 0: build it "
            "with batch_norm_epsilon=1e-5",
        )
    return notes


def adapt(model: nnx.Module, given: dict[str, np.ndarray], source: str) -> tuple[str, ...]:
    """Replace, among the given arrays, the first convolution by one for the network's channels; return a note on it."""
    stem = _stem_of_other_channels(model, given, source)
    if stem is None:
        return ()
    path, found, kernel, channels = stem
    given |= found.to_theirs(adapted_stem(kernel, channels))
    return (f"{path}: made for {channels} channels from the {kernel.shape[2]} of the weights",)


def _stem_of_other_channels(
    model: nnx.Module, given: Mapping[str, np.ndarray], source: str
) -> tuple[str, Counterpart, np.ndarray, int] | None:
    """Return the path and place of the first convolution, its given kernel, and the channels that ours takes.

    None is returned if the given kernel is missing, has as many, or differs in more.
    """
    path = family_of(model).stem
    stem = flat_arrays(model).get(path)
    ours: tuple[int, ...] = () if stem is None else stem.shape
    found = place_of(None if source == OWN else table_of(model, source), path, ours) if len(ours) == 4 else None
    if found is None or found.keys[0] not in given or given[found.keys[0]].ndim != 4:
        return None
    kernel = found.to_ours([given[found.keys[0]]])
    differs = [kernel.shape[axis] != ours[axis] for axis in range(4)]
    return (path, found, kernel, ours[2]) if differs == [False, False, True, False] and kernel.size else None


def place_of(table: Sequence[Row] | None, path: str, shape: tuple[int, ...]) -> Counterpart | None:
    """Return the counterpart of our array at `path` by a key table; without one, as this library names it."""
    if table is None:
        return Counterpart((path,), Leaf("", lambda x: x, lambda x: x))
    return counterpart(table, path, shape)


def without(prefix: str) -> str:
    """Return what an error says of a prefix that was taken off the names it lists."""
    return f", named without {prefix!r}," if prefix else ""


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

    The names may be those of another source, the images have other channels, or the weights be a plain network's.
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
    if _stem_of_other_channels(model, given, source) is not None:
        return "; adapt_stem=True takes a first convolution for another number of channels"
    modules = {".".join(map(str, path)): module for path, module in nnx.iter_modules(model)}
    theirs = [key.removesuffix(".qkv.kernel") for key in given if key.endswith(".qkv.kernel")] if source == OWN else []
    plain = [path for path in theirs if not isinstance(modules.get(path), AAConv2D)]
    if plain:
        return f"; the weights have attention in {len(plain)} layers that are plain here, such as {plain[0]}"
    augmented = any(isinstance(module, AAConv2D | AWConv2D) for module in modules.values())
    return "; init_from_plain starts an augmented network from a plain one's weights" if augmented else ""
