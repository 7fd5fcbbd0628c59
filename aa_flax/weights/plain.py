"""Initialisation of a network from a plain one's weights, or from those of one of this library with other sizes."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from flax import nnx

from aa_flax.weights.arrays import fill_arrays, flat_arrays
from aa_flax.weights.convert import OWN, adapt, hint, misfits, said, without
from aa_flax.weights.errors import WeightsError, raise_all
from aa_flax.weights.given import given_arrays
from aa_flax.weights.places import Places, other_heads, resized_table
from aa_flax.weights.report import Report
from aa_flax.weights.tables import respelt


def init_from_plain(
    model: nnx.Module,
    state_dict: Mapping[str, Any],
    *,
    source: str,
    zero_output: bool = False,
    init_part: str = "",
    adapt_stem: bool = False,
    names: Sequence[str] = (),
) -> Report:
    """Fill a network, in place, with those of another network's weights that fit.

    From a plain network's weights, the convolution of an augmented layer takes the filters 0 ... out - dv - 1 of the
    plain convolution, and the batch norm after it takes their entries; its other entries and the attention keep their
    initial values. The next layer takes all its weights. From the weights of an augmented network of this library,
    attention is taken too: `qkv` and `out` as they are, the tables `rel_height` and `rel_width` resized where the
    network is made for images of another size (`aa_flax.ops.resize_relative_table`, by the layer's `table_resize`, with
    "linear" for "error"), so that the network starts as the other one called at that size.

    What the weights do not have (recalibration modules, attention pooling, the pyramid of a plain backbone, an
    auxiliary head, a presence head, a mask head) keeps its initial values. So do, where the weights are for other
    classes, the classifier or, of a detector or segmentation network, its layers for classes, and tokens; a classifier
    of your own; a gather-excite whose kernel has the size of another map; and the gates of AW-convolutions, unless the
    weights have them: a network with aw_gate_scale=0 starts as the plain one. Anything else that does not fit is an
    error. A network without a classifier (`num_classes=0`) leaves the classifier's keys unused.

    Args:
        model: any network of a family that has a key table for `source`, or one that has such a network as `init_part`.
        state_dict: as for `load_torch_state_dict`; for source "aa_flax", arrays by our dotted paths, with our order of
            axes.
        source: "timm", "torchvision", "deit", or "aa_flax" for weights of this library.
        zero_output: start the output projection of each attention that the weights do not have at zero, so that it adds
            nothing at first.
        init_part: dotted path of the network inside `model` that the weights are for, such as "backbone" of a detector;
            "" is `model` itself. The report has paths in the whole `model`, and lists arrays outside the part as new.
        adapt_stem: as for `load_torch_state_dict`.
        names: of the classes that the network is for. Where the card of the weights, a file that `checkpoints export`
            wrote, names others, or the same in another order, the classifier keeps its initial values, though they may
            be as many.

    Returns:
        What was done with each array.

    Raises:
        WeightsError: there is no such part or no table, nothing fits, arrays that should fit do not, or some keep their
            initial values in part and the network has shapes only; one message lists them all. Or the weights are said
            to be of a network that may have the same names and compute something else.
    """
    if source == OWN:  # a file of ours may have timm's names, in the folder of a hub
        source = str((getattr(state_dict, "card", None) or {}).get("key_names", OWN))
    if init_part:
        part = _part(model, init_part)
        report = init_from_plain(
            part,
            state_dict,
            source=source,
            zero_output=zero_output,
            adapt_stem=adapt_stem,
            names=names,
        )
        return report.within(init_part, [path for path in flat_arrays(model) if not path.startswith(f"{init_part}.")])
    arrays = flat_arrays(model)
    places = Places(model, source)
    named = respelt(model, source, state_dict)
    given, prefix, others, notes = given_arrays(named, places.names(arrays), lenient=True)
    notes = (*said(model, state_dict, source), *notes)
    if other_classes := _are_others(state_dict, names):
        notes += ("the weights are of other classes: the layer for classes is new",)
    if adapt_stem:
        notes += adapt(model, given, source)
    values: dict[str, np.ndarray] = {}
    used: set[str] = set()
    loaded, new, problems, partial, resized = [], [], [], {}, {}
    for path, array in arrays.items():
        place = places.place(path, array.shape, given)
        found = place.found
        if found is None:
            if place.optional:
                new.append(path)
            else:
                problems.append(f"{path}: missing (for {path})")
            continue
        absent = place.optional and not given.keys() >= {*found.keys}
        if absent or (places.is_head(path) and (other_classes or not places.takes_head(path, given, arrays))):
            new.append(path)
            continue
        if path == "pooling.tokens":
            theirs = found.to_ours([given[key] for key in found.keys]).shape
            if theirs != array.shape and theirs[1:] == array.shape[1:]:
                new.append(path)  # tokens for other classes, or one token for all classes
                continue
        used.update(found.keys)
        if place.resize and (table := resized_table(given[path], array.shape, place.resize)) is not None:
            values[path], resized[path] = table, (given[path].shape[0], array.shape[0])
            continue
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
        elif place.kept and isinstance(array, jax.ShapeDtypeStruct):
            problems.append(f"{path}: keeps initial values in part, and this network has shapes only")
        elif place.kept:
            partial[path] = (place.kept, whole)
            values[path] = np.concatenate([value[..., : place.kept], np.asarray(array)[..., place.kept :]], -1)
        else:
            new.append(path)
    if source == OWN:
        problems += other_heads(model, given, getattr(state_dict, "card", None), prefix)
    if not values:
        problems.append(f"nothing fits; the keys begin with {', '.join(list(given)[:3]) or 'none'}")
    if problems:
        why = hint(model, given, source)
        raise_all(problems, f"{source}'s weights{without(prefix)} do not fit this {type(model).__name__}{why}")
    if zero_output:
        values |= {path: np.zeros(arrays[path].shape) for path in new if path in places.output_projections}
    fill_arrays(model, values)
    unused = (*(prefix + key for key in given if key not in used), *others)
    return Report(tuple(loaded), partial, tuple(new), unused, resized, notes)


def _are_others(state_dict: Mapping[str, Any], names: Sequence[str]) -> bool:
    """Return whether the card of some weights names other classes than these."""
    card = getattr(state_dict, "card", None) or {}
    origin = card.get("origin")
    theirs = origin.get("names") if isinstance(origin, dict) else None
    return bool(names) and isinstance(theirs, list) and theirs != list(names)


def _part(model: nnx.Module, path: str) -> nnx.Module:
    modules = {".".join(map(str, names)): module for names, module in nnx.iter_modules(model)}
    if path not in modules:
        parts = ", ".join(name for name in modules if name and "." not in name) or "none"
        raise WeightsError(f"init_part: {type(model).__name__} has no part {path!r}; its parts: {parts}")
    return modules[path]
