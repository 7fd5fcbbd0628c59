"""Where the weights of another network have the array from which one of ours is initialised."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from flax import nnx

from aa_flax.layers import AAConv, AWConv2D, GatherExcite
from aa_flax.ops import resize_relative_table
from aa_flax.ops.axes import AXES, table_names
from aa_flax.weights.card import described_network
from aa_flax.weights.convert import OWN, place_of
from aa_flax.weights.rows import Counterpart
from aa_flax.weights.tables import family_of, table_of

_TABLES = {name for dimensions in AXES for name in table_names(dimensions)}
_OPTIONAL = re.compile(r"(^|\.)(recalibration|attention\d+|pooling|pyramid|auxiliary_head|mask_head)(\.|$)")
"""Paths of modules that a network may have and the weights for it may not."""


class Place(NamedTuple):
    """Where the weights have the array from which one of ours is initialised.

    Attributes:
        found: its keys; None if the weights have no such array.
        optional: whether our array keeps its initial values if the weights lack the keys; else that is an error.
        kept: how many of its entries along the last axis are taken, the first ones; None for all.
        whole: how many entries it has along the last axis; None for as many as ours.
        resize: for a position table, how one of another length is made to fit; None for other arrays.
    """

    found: Counterpart | None
    optional: bool
    kept: int | None = None
    whole: int | None = None
    resize: Any = None


class Places:
    """The places of a network's arrays in the weights of a plain one, or of one of this library."""

    def __init__(self, model: nnx.Module, source: str) -> None:
        """Look up the key table of `model` for `source`; raise WeightsError if there is none."""
        modules = {".".join(map(str, path)): module for path, module in nnx.iter_modules(model)}
        self._augmented = {path: module for path, module in modules.items() if isinstance(module, AAConv)}
        self._weighted = [path for path, module in modules.items() if isinstance(module, AWConv2D)]
        self._sized = {
            path: module.map_shape
            for path, module in modules.items()
            if isinstance(module, GatherExcite) and module.map_shape is not None
        }
        family = family_of(model)
        self._heads = family.heads
        self._norms = {family.norm_after(path): path for path in self._augmented}
        self._pools = getattr(model, "pooling", None) is not None
        self._table = None if source == OWN else table_of(model, source)
        self.output_projections = {f"{path}.out.kernel" for path in self._augmented}

    def names(self, arrays: Mapping[str, Any]) -> set[str]:
        """Return the names that weights for a network with these arrays may have."""
        found = (self.place(path, array.shape, {}).found for path, array in arrays.items())
        names = {key for place in found if place is not None for key in place.keys}
        return names | set(arrays) if self._table is None else names

    def place(self, path: str, shape: tuple[int, ...], given: Mapping[str, np.ndarray]) -> Place:
        """Return where the weights `given` have the array for our array of that shape at the dotted `path`."""
        module, _, name = path.rpartition(".")
        if any(
            path.startswith(f"{owner}.") and path not in (f"{owner}.kernel", f"{owner}.bias")
            for owner in self._weighted
        ):
            return Place(self._find(path, shape), True)  # the gate, which only weights of AW-convolutions have
        if module in self._norms:
            owner = self._norms[module]
            if self._attends(owner, given):
                return Place(self._find(path, shape), False)
            layer = self._augmented[owner]
            return Place(self._find(path, shape), False, layer.out_features - layer.value_depth, layer.out_features)
        for owner, layer in self._augmented.items():
            if not path.startswith(f"{owner}."):
                continue
            if self._attends(owner, given):
                resize = layer.table_resize.replace("error", "linear") if name in _TABLES else None
                return Place(self._find(path, shape), name in (*_TABLES, "bias"), resize=resize)
            if module != f"{owner}.conv":
                return Place(None, True)
            # The first filters of the plain convolution, or of an augmented one that is too narrow to attend.
            plain = path if self._table is None and path in given else f"{owner}.{name}"
            kept = layer.out_features - layer.value_depth
            return Place(self._find(plain, shape), name == "bias", kept, layer.out_features)
        if self._has_another_size(path, given):
            return Place(None, True)
        optional = self.is_head(path) or _OPTIONAL.search(module)
        return Place(self._find(path, shape), bool(optional))

    def is_head(self, path: str) -> bool:
        """Return whether the array at a dotted path belongs to a layer with entries for each class."""
        return self._head_of(path) is not None

    def takes_head(self, path: str, given: Mapping[str, np.ndarray], arrays: Mapping[str, Any]) -> bool:
        """Return whether the layer for classes that has the array at a dotted path is taken, all of it or none.

        One for another number of classes is not taken, and one of the user's own only as a whole. One whose input has
        another width is not taken either if the network has attention pooling, which changes that width; without
        pooling it is a mistake, so True is returned and the caller reports the shapes.
        """
        head = self._head_of(path)
        kernel = f"{head}.kernel"
        if kernel not in arrays:  # the user's own
            own = {name: array.shape for name, array in arrays.items() if self._head_of(name) == head}
            return all(name in given and given[name].shape == shape for name, shape in own.items())
        ours = arrays[kernel].shape
        found = self._find(kernel, ours)
        if found is None or not given.keys() >= {*found.keys}:
            return True
        if found.axis is not None:  # a layer for each class
            return found.beyond not in given
        theirs = found.to_ours([given[key] for key in found.keys]).shape
        return theirs == ours or (theirs[:-1] != ours[:-1] and not self._pools)

    def _head_of(self, path: str) -> str | None:
        """Return which layer for classes the array at a dotted path belongs to."""
        return next((head for head in self._heads if path.startswith(f"{head}.")), None)

    def _attends(self, owner: str, given: Mapping[str, np.ndarray]) -> bool:
        """Return whether the weights are of this library and have attention in the layer at the dotted path `owner`."""
        return self._table is None and f"{owner}.qkv.kernel" in given

    def _has_another_size(self, path: str, given: Mapping[str, np.ndarray]) -> bool:
        """Return whether the array belongs to a layer whose kernel, in the weights, has the size of another map."""
        for owner, size in self._sized.items():
            if path.startswith(f"{owner}."):
                kernel = given.get(f"{owner}.gather1.kernel")
                return kernel is not None and kernel.shape[:2] != size
        return False

    def _find(self, path: str, shape: tuple[int, ...]) -> Counterpart | None:
        return place_of(self._table, path, shape)


def resized_table(table: np.ndarray, shape: tuple[int, ...], method: Any) -> np.ndarray | None:
    """Return a position table made for maps of another size, or None if only its number of rows may not differ."""
    if table.ndim != 2 or table.shape[1:] != shape[1:] or table.shape[0] == shape[0] or table.shape[0] % 2 == 0:
        return None
    length = (shape[0] + 1) // 2
    return np.asarray(resize_relative_table(jnp.asarray(table, jnp.float32), length, method=method))


def other_heads(
    model: nnx.Module, given: Mapping[str, np.ndarray], card: Mapping[str, Any] | None, prefix: str
) -> list[str]:
    """Return a line for each layer whose attention is divided among other heads in the weights than here.

    Without position tables no shape tells, and only the card of the weights does.

    Args:
        model: the network that takes the weights.
        given: the weights, of this library.
        card: their card, if they have one.
        prefix: what was taken off their names.
    """
    ours = {".".join(map(str, path)): module for path, module in nnx.iter_modules(model)}
    untold = {
        path: module.num_heads
        for path, module in ours.items()
        if isinstance(module, AAConv) and not module.has_tables and f"{path}.qkv.kernel" in given
    }
    if card is None or not untold:
        return []
    shapes = {prefix + path: array.shape for path, array in given.items()}
    network = described_network(Path("the weights"), card, shapes)
    theirs = {".".join(map(str, path)): module for path, module in nnx.iter_modules(network)}
    return [
        f"{path}: {there} heads in the weights, {here} here"
        for path, here in untold.items()
        if (there := getattr(theirs.get(prefix + path), "num_heads", here)) != here
    ]
