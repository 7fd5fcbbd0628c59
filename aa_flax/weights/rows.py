"""The rows of the key tables: each pairs one of our modules with one of PyTorch's and says what kind of module it is.

`Row("stage{s}.block{b}.conv{k}", "layer{s}.{b-1}.conv{k}", CONV)`: a letter in braces stands for a number, and may be
followed by an offset. The kind has, for each of our arrays in the module, its name and order of axes in PyTorch.

`Row("trunk.blocks.depthwise", "blocks.{n}.attn.qkv_pos.2", CONV, axis=0)`: our single array is the stack, along its
axis 0, of PyTorch's arrays for n = 0, 1, 2 ...

"Ours" is an array, module or name of this library, "theirs" one of PyTorch.
"""

import functools
import re
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np


class Leaf(NamedTuple):
    """The name of one array in PyTorch, and the functions that convert its axes to our order and back."""

    name: str
    to_ours: Callable[[np.ndarray], np.ndarray]
    to_theirs: Callable[[np.ndarray], np.ndarray]


def _same(x: np.ndarray) -> np.ndarray:
    return x


_BIAS = Leaf("bias", _same, _same)
Kind = Mapping[str, Leaf]

# Theirs is [out, in, h, w], ours [h, w, in, out]; depthwise: [c, 1, h, w] and [h, w, 1, c].
CONV: Kind = {
    "kernel": Leaf("weight", lambda x: x.transpose(2, 3, 1, 0), lambda x: x.transpose(3, 2, 0, 1)),
    "bias": _BIAS,
}
# Of a transposed convolution theirs is [in, out, h, w], ours [h, w, in, out].
TRANSPOSED: Kind = {
    "kernel": Leaf("weight", lambda x: x.transpose(2, 3, 0, 1), lambda x: x.transpose(2, 3, 0, 1)),
    "bias": _BIAS,
}
# Theirs is [out, in], ours [in, out].
LINEAR: Kind = {"kernel": Leaf("weight", np.transpose, np.transpose), "bias": _BIAS}
# Theirs is a 1×1 convolution, ours a matrix.
POINTWISE: Kind = {
    "kernel": Leaf("weight", lambda x: x[:, :, 0, 0].T, lambda x: x.T[:, :, None, None]),
    "bias": _BIAS,
}
NORM: Kind = {
    "scale": Leaf("weight", _same, _same),
    "bias": _BIAS,
    "mean": Leaf("running_mean", _same, _same),
    "var": Leaf("running_var", _same, _same),
}


# One logit of a classifier that has a layer for each class; theirs is [1, in] and [1], ours [in] and [].
LOGIT: Kind = {
    "kernel": Leaf("weight", lambda x: x[0], lambda x: x[None]),
    "bias": Leaf("bias", lambda x: x[0], lambda x: x[None]),
}


def renamed(**names: str) -> Kind:
    """Return the kind of a module whose own parameters have the same axes in both; `names` has theirs by ours."""
    return {ours: Leaf(theirs, _same, _same) for ours, theirs in names.items()}


class Row(NamedTuple):
    """A pair of modules: our path, their path, the kind, and the axis along which ours stacks theirs, if it does."""

    ours: str
    theirs: str
    kind: Kind
    axis: int | None = None


class Counterpart(NamedTuple):
    """The keys of a PyTorch state dict that correspond to one of our arrays: one key, or several whose stack ours is.

    `beyond` is the key that would follow if theirs had one more array; it is "" for an array that is no stack.
    """

    keys: tuple[str, ...]
    leaf: Leaf
    axis: int | None = None
    beyond: str = ""

    def to_ours(self, arrays: Sequence[np.ndarray]) -> np.ndarray:
        """Return our array, made from theirs in the order of the keys."""
        ours = [self.leaf.to_ours(array) for array in arrays]
        return ours[0] if self.axis is None else np.stack(ours, self.axis)

    def to_theirs(self, array: np.ndarray) -> dict[str, np.ndarray]:
        """Return their arrays, made from ours, by key."""
        ours = [array] if self.axis is None else np.moveaxis(array, self.axis, 0)
        return {key: self.leaf.to_theirs(part) for key, part in zip(self.keys, ours, strict=True)}

    def shape(self, ours: tuple[int, ...]) -> tuple[int, ...]:
        """Return the shape of each of their arrays if ours has the shape `ours`."""
        return next(iter(self.to_theirs(np.broadcast_to(np.float32(0), ours)).values())).shape


def counterpart(table: Sequence[Row], path: str, shape: tuple[int, ...]) -> Counterpart | None:
    """Return the counterpart of our array of that shape at the dotted `path`, or None if no row has it."""
    module, _, name = path.rpartition(".")
    for row in table:
        # A network has hundreds of arrays, each compared with every row.
        if name not in row.kind or _pattern(row.ours).fullmatch(module) is None:
            continue
        leaf, numbers = row.kind[name], match(row.ours, module) or {}
        total = 0 if row.axis is None else shape[row.axis]
        keys = [f"{fill(row.theirs, {'n': n, **numbers})}.{leaf.name}".lstrip(".") for n in range(total + 1)]
        if row.axis is None:
            return Counterpart((keys[0],), leaf)
        return Counterpart(tuple(keys[:-1]), leaf, row.axis, keys[-1])
    return None


def speaks_of(row: Row, key: str) -> bool:
    """Return whether a PyTorch key is one of the arrays of the module that a row names."""
    module, _, name = key.rpartition(".")
    return match(row.theirs, module) is not None and name in {leaf.name for leaf in row.kind.values()}


def match(template: str, path: str) -> dict[str, int] | None:
    """Return the number that each letter of `template` stands for in `path`, or None if the path does not match."""
    found = _pattern(template).fullmatch(path)
    return {letter: int(number) for letter, number in found.groupdict().items()} if found else None


@functools.cache
def _pattern(template: str) -> re.Pattern[str]:
    return re.compile(re.sub(r"\\\{(\w)\\\}", r"(?P<\1>\\d+)", re.escape(template)))


def fill(template: str, numbers: Mapping[str, int]) -> str:
    """Return `template` with each letter, and its offset if it has one, replaced by a number."""
    return re.sub(r"\{(\w)([+-]\d+)?\}", lambda m: str(numbers[m[1]] + int(m[2] or 0)), template)
