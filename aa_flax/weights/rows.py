"""The language of the key tables: a row says that our module is their module, and what kind of module it is.

`Row("stage{s}.block{b}.conv{k}", "layer{s}.{b-1}.conv{k}", CONV)`: a letter in braces stands for a number, and an
offset may follow it. The kind says what each of our leaves is called there and how its axes lie.
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


class Row(NamedTuple):
    """One of our modules, their name for it, and its kind."""

    ours: str
    theirs: str
    kind: Kind


class Counterpart(NamedTuple):
    """Where an array of ours lies in a PyTorch state dict."""

    key: str
    leaf: Leaf


def counterpart(table: Sequence[Row], path: str) -> Counterpart | None:
    """What the array at our dotted `path` is called there, or None if no row speaks of it."""
    module, _, name = path.rpartition(".")
    for row in table:
        numbers = match(row.ours, module)
        if numbers is not None and name in row.kind:
            leaf = row.kind[name]
            return Counterpart(f"{fill(row.theirs, numbers)}.{leaf.name}", leaf)
    return None


def match(template: str, path: str) -> dict[str, int] | None:
    """The number that each letter of `template` stands for in `path`, or None if it does not fit."""
    pattern = re.sub(r"\\\{(\w)\\\}", r"(?P<\1>\\d+)", re.escape(template))
    found = re.fullmatch(pattern, path)
    return {letter: int(number) for letter, number in found.groupdict().items()} if found else None


def fill(template: str, numbers: Mapping[str, int]) -> str:
    """`template` with its letters, and their offsets, replaced by numbers."""
    return re.sub(r"\{(\w)([+-]\d+)?\}", lambda m: str(numbers[m[1]] + int(m[2] or 0)), template)
