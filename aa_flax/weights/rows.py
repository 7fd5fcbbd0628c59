"""The language of the key tables: a row says that our module is their module, and what kind of module it is.

`Row("stage{s}.block{b}.conv{k}", "layer{s}.{b-1}.conv{k}", CONV)`: a letter in braces stands for a number, and an
offset may follow it. The kind says what each of our leaves is called there and how its axes lie.

`Row("trunk.blocks.depthwise", "blocks.{n}.attn.qkv_pos.2", CONV, axis=0)`: our one array holds all of theirs, n = 0, 1,
2 ..., along its axis 0.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np


class Leaf(NamedTuple):
    """The name of one array in PyTorch, and its axes from there to here and back."""

    name: str
    to_ours: Callable[[np.ndarray], np.ndarray]
    to_theirs: Callable[[np.ndarray], np.ndarray]


def _same(x: np.ndarray) -> np.ndarray:
    return x


_BIAS = Leaf("bias", _same, _same)
Kind = Mapping[str, Leaf]

# [out, in, h, w] there, [h, w, in, out] here; depthwise: [c, 1, h, w] and [h, w, 1, c].
CONV: Kind = {
    "kernel": Leaf("weight", lambda x: x.transpose(2, 3, 1, 0), lambda x: x.transpose(3, 2, 0, 1)),
    "bias": _BIAS,
}
# [out, in] there, [in, out] here
LINEAR: Kind = {"kernel": Leaf("weight", np.transpose, np.transpose), "bias": _BIAS}
# a matrix here, a 1×1 convolution there
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


# one logit of a classifier that has a layer for each class: [1, in] and [1] there
LOGIT: Kind = {
    "kernel": Leaf("weight", lambda x: x[0], lambda x: x[None]),
    "bias": Leaf("bias", lambda x: x[0], lambda x: x[None]),
}


def renamed(**names: str) -> Kind:
    """A module's own parameters, whose axes lie as ours do: our name to theirs."""
    return {ours: Leaf(theirs, _same, _same) for ours, theirs in names.items()}


class Row(NamedTuple):
    """One of our modules, their name for it, its kind, and along which axis ours stacks theirs, if it does."""

    ours: str
    theirs: str
    kind: Kind
    axis: int | None = None


class Counterpart(NamedTuple):
    """Where an array of ours lies in a PyTorch state dict: under one key, or under several of which it is the stack.

    `beyond` is the key that would follow if theirs were more; "" for an array that is no stack.
    """

    keys: tuple[str, ...]
    leaf: Leaf
    axis: int | None = None
    beyond: str = ""

    def to_ours(self, arrays: Sequence[np.ndarray]) -> np.ndarray:
        """Our array, of theirs in the order of the keys."""
        ours = [self.leaf.to_ours(array) for array in arrays]
        return ours[0] if self.axis is None else np.stack(ours, self.axis)

    def to_theirs(self, array: np.ndarray) -> dict[str, np.ndarray]:
        """Their arrays by key."""
        ours = [array] if self.axis is None else np.moveaxis(array, self.axis, 0)
        return {key: self.leaf.to_theirs(part) for key, part in zip(self.keys, ours, strict=True)}

    def shape(self, ours: tuple[int, ...]) -> tuple[int, ...]:
        """The shape of each of theirs, where ours has the given one."""
        return next(iter(self.to_theirs(np.broadcast_to(np.float32(0), ours)).values())).shape


def counterpart(table: Sequence[Row], path: str, shape: tuple[int, ...]) -> Counterpart | None:
    """What the array of that shape at our dotted `path` is called there, or None if no row speaks of it."""
    module, _, name = path.rpartition(".")
    for row in table:
        numbers = match(row.ours, module)
        if numbers is None or name not in row.kind:
            continue
        leaf = row.kind[name]

        def key(n: int, row: Row = row, leaf: Leaf = leaf, numbers: dict[str, int] = numbers) -> str:
            return f"{fill(row.theirs, {'n': n, **numbers})}.{leaf.name}".lstrip(".")

        if row.axis is None:
            return Counterpart((key(0),), leaf)
        total = shape[row.axis]
        return Counterpart(tuple(key(n) for n in range(total)), leaf, row.axis, key(total))
    return None


def speaks_of(row: Row, key: str) -> bool:
    """Whether a key of PyTorch's is one of the arrays of the module that a row names."""
    module, _, name = key.rpartition(".")
    return match(row.theirs, module) is not None and name in {leaf.name for leaf in row.kind.values()}


def match(template: str, path: str) -> dict[str, int] | None:
    """The number that each letter of `template` stands for in `path`, or None if it does not fit."""
    pattern = re.sub(r"\\\{(\w)\\\}", r"(?P<\1>\\d+)", re.escape(template))
    found = re.fullmatch(pattern, path)
    return {letter: int(number) for letter, number in found.groupdict().items()} if found else None


def fill(template: str, numbers: Mapping[str, int]) -> str:
    """`template` with its letters, and their offsets, replaced by numbers."""
    return re.sub(r"\{(\w)([+-]\d+)?\}", lambda m: str(numbers[m[1]] + int(m[2] or 0)), template)
