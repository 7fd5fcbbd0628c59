"""Initialisation of an augmented network, or of one with another classifier, from a plain network's weights."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from flax import nnx

from aa_flax.layers import AAConv2D, AWConv2D
from aa_flax.weights.arrays import fill_arrays, flat_arrays
from aa_flax.weights.convert import OWN, hint, misfits, numpy_arrays, raise_all
from aa_flax.weights.errors import WeightsError
from aa_flax.weights.rows import Counterpart, Leaf, counterpart
from aa_flax.weights.tables import family_of, table_of


@dataclass(frozen=True)
class Report:
    """What `init_from_plain` did with each array, by dotted path.

    Attributes:
        loaded: arrays that were taken as a whole.
        partial: arrays of which the first entries along the last axis were taken: (entries taken, all entries) by path.
        new: arrays that keep their initial values, and the output projections that were set to zero.
        unused: keys of the state dict for which the network has no array.
    """

    loaded: tuple[str, ...]
    partial: Mapping[str, tuple[int, int]]
    new: tuple[str, ...]
    unused: tuple[str, ...]

    def __str__(self) -> str:
        lines = [f"{len(self.loaded)} arrays taken over, {len(self.partial)} in part, {len(self.new)} new"]
        lines += [f"  in part  {path}: {taken} of {total}" for path, (taken, total) in self.partial.items()]
        lines += [f"  new      {path}" for path in self.new]
        lines += [f"  unused   {key}" for key in self.unused]
        return "\n".join(lines)


def init_from_plain(
    model: nnx.Module,
    state_dict: Mapping[str, Any],
    *,
    source: str,
    zero_output: bool = False,
    init_part: str = "",
) -> Report:
    """Fill a network, in place, with those of a plain network's weights that fit.

    The convolution of an augmented layer takes the filters 0 ... out - dv - 1 of the plain convolution, and the batch
    norm after it takes their entries; its other entries and the attention keep their initial values. The next layer
    takes all its weights. What the plain network does not have (recalibration modules, attention pooling), and a
    classifier or tokens for another number of classes, keep their initial values. So do the gates of AW-convolutions,
    unless the weights have them: a network with aw_gate_scale=0 starts as the plain one. Anything else that does not
    fit is an error. A network without a classifier (`num_classes=0`) leaves the classifier's keys unused.

    Args:
        model: any network of a family that has a key table for `source`, or one that has such a network as `init_part`.
        state_dict: as for `load_torch_state_dict`; for source "aa_flax", arrays by our dotted paths, with our order of
            axes.
        source: "timm", "torchvision", "deit", or "aa_flax" for weights of this library.
        zero_output: start the output projection of each attention at zero, so that attention adds nothing at first.
        init_part: dotted path of the network inside `model` that the weights are for, such as "backbone" of a detector;
            "" is `model` itself. The report has paths in the whole `model`, and lists arrays outside the part as new.

    Returns:
        What was done with each array.

    Raises:
        WeightsError: there is no such part or no table, nothing fits, or arrays that should fit do not; one message
            lists them all.
    """
    if init_part:
        part = _part(model, init_part)
        report = init_from_plain(part, state_dict, source=source, zero_output=zero_output)
        return _of_the_whole(report, model, init_part)
    given = numpy_arrays(state_dict)
    arrays = flat_arrays(model)
    plain = _Plain(model, source)
    values: dict[str, np.ndarray] = {}
    used: set[str] = set()
    loaded, new, problems, partial = [], [], [], {}
    for path, array in arrays.items():
        place = plain.place(path, array.shape)
        found = place.found
        if found is None:
            if place.optional:
                new.append(path)
            else:
                problems.append(f"{path}: missing (for {path})")
            continue
        absent = place.optional and not given.keys() >= {*found.keys}
        if absent or (path.startswith("head.") and not plain.takes_head(given, arrays)):
            new.append(path)
            continue
        if path == "pooling.tokens":
            theirs = found.to_ours([given[key] for key in found.keys]).shape
            if theirs != array.shape and theirs[1:] == array.shape[1:]:
                new.append(path)  # tokens for other classes, or one token for all classes
                continue
        used.update(found.keys)
        whole = array.shape[-1] if place.whole is None else place.whole
        wrong = misfits(given, found, path, (*array.shape[:-1], whole))
        if found.beyond in given:
            wrong.append(f"{found.beyond}: one more than the network has places for (for {path})")
        if wrong:
            problems += wrong
            continue
        value = found.to_ours([given[key] for key in found.keys])
        if place.kept is None or place.kept == whole:
            loaded.append(path)
            values[path] = value
        elif place.kept:
            partial[path] = (place.kept, whole)
            values[path] = np.concatenate([value[..., : place.kept], np.asarray(array)[..., place.kept :]], -1)
        else:
            new.append(path)
    if not values:
        problems.append(f"nothing fits; the keys begin with {', '.join(list(given)[:3]) or 'none'}")
    if problems:
        raise_all(problems, f"{source}'s weights do not fit this {type(model).__name__}{hint(model, given, source)}")
    if zero_output:
        values |= {path: np.zeros(arrays[path].shape) for path in new if path in plain.output_projections}
    fill_arrays(model, values)
    return Report(tuple(loaded), partial, tuple(new), tuple(key for key in given if key not in used))


def _part(model: nnx.Module, path: str) -> nnx.Module:
    modules = {".".join(map(str, names)): module for names, module in nnx.iter_modules(model)}
    if path not in modules:
        parts = ", ".join(name for name in modules if name and "." not in name) or "none"
        raise WeightsError(f"init_part: {type(model).__name__} has no part {path!r}; its parts: {parts}")
    return modules[path]


def _of_the_whole(report: Report, model: nnx.Module, part: str) -> Report:
    """Return the report on a part of a network with paths in the whole network, all arrays outside the part as new."""

    def named(paths: Iterable[str]) -> tuple[str, ...]:
        return tuple(f"{part}.{path}" for path in paths)

    others = tuple(path for path in flat_arrays(model) if not path.startswith(f"{part}."))
    partial = dict(zip(named(report.partial), report.partial.values(), strict=True))
    return Report(named(report.loaded), partial, (*named(report.new), *others), report.unused)


class _Place(NamedTuple):
    """Where the plain network has the array from which one of ours is initialised.

    Attributes:
        found: its keys; None if the plain network has no such array.
        optional: whether our array keeps its initial values if the weights lack the keys; else that is an error.
        kept: how many of its entries along the last axis are taken, the first ones; None for all.
        whole: how many entries it has along the last axis; None for as many as ours.
    """

    found: Counterpart | None
    optional: bool
    kept: int | None = None
    whole: int | None = None


class _Plain:
    """The plain network that corresponds to a network whose convolutions may be augmented."""

    def __init__(self, model: nnx.Module, source: str) -> None:
        """Look up the key table of `model` for `source`; raise WeightsError if there is none."""
        modules = {".".join(map(str, path)): module for path, module in nnx.iter_modules(model)}
        self._augmented = {path: module for path, module in modules.items() if isinstance(module, AAConv2D)}
        self._weighted = [path for path, module in modules.items() if isinstance(module, AWConv2D)]
        self._norms = {family_of(model).norm_after(path): layer for path, layer in self._augmented.items()}
        self._pools = getattr(model, "pooling", None) is not None
        self._table = None if source == OWN else table_of(model, source)
        self.output_projections = {f"{path}.out.kernel" for path in self._augmented}

    def place(self, path: str, shape: tuple[int, ...]) -> _Place:
        """Return where the plain network has the array for our array of that shape at the dotted `path`."""
        module, _, name = path.rpartition(".")
        if any(
            path.startswith(f"{owner}.") and path not in (f"{owner}.kernel", f"{owner}.bias")
            for owner in self._weighted
        ):
            return _Place(self._find(path, shape), True)  # the gate, which only weights of AW-convolutions have
        if module in self._norms:
            layer = self._norms[module]
            return _Place(self._find(path, shape), False, layer.out_features - layer.value_depth, layer.out_features)
        for owner, layer in self._augmented.items():
            if module == f"{owner}.conv":  # has only the first filters of the plain convolution
                kept = layer.out_features - layer.value_depth
                return _Place(self._find(f"{owner}.{name}", shape), name == "bias", kept, layer.out_features)
            if path.startswith(f"{owner}."):
                return _Place(None, True)
        parts = r"(^|\.)(recalibration|attention\d+|pooling)(\.|$)"
        return _Place(self._find(path, shape), module == "head" or re.search(parts, module) is not None)

    def takes_head(self, given: Mapping[str, np.ndarray], arrays: Mapping[str, Any]) -> bool:
        """Return whether the classifier's arrays are to be taken from the weights, all of them or none.

        A classifier for another number of classes is not taken. One whose input has another width is not taken either
        if the network has attention pooling, which changes that width; without pooling it is a mistake, so True is
        returned and the caller reports the shapes.
        """
        ours = arrays["head.kernel"].shape
        found = self._find("head.kernel", ours)
        if found is None or not given.keys() >= {*found.keys}:
            return True
        if found.axis is not None:  # a layer for each class
            return found.beyond not in given
        theirs = found.to_ours([given[key] for key in found.keys]).shape
        return theirs == ours or (theirs[:-1] != ours[:-1] and not self._pools)

    def _find(self, path: str, shape: tuple[int, ...]) -> Counterpart | None:
        if self._table is None:
            return Counterpart((path,), Leaf("", lambda x: x, lambda x: x))
        return counterpart(self._table, path, shape)
