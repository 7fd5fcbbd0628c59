"""How far the outputs of a program are from those of a network."""

from collections.abc import Mapping
from typing import Any

import numpy as np


def differences(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> dict[str, float]:
    """Return how far each output is from what the network gives, relative to the largest number of that output.

    Of whole numbers, such as the class of each pixel, it is the part of them that differ. Objects, which are outputs
    with one named "valid", have no order among those of nearly equal score: each is compared with the nearest of its
    class, and together they have one difference, "objects", infinite where their number or a class differs.

    Args:
        ours: the network's outputs, [b, ...] by name.
        theirs: the program's.
    """
    ours, theirs = ({name: np.asarray(each) for name, each in given.items()} for given in (ours, theirs))
    if ours.keys() != theirs.keys() or any(ours[name].shape != theirs[name].shape for name in ours):
        return {"shapes": np.inf}
    if "valid" in ours:
        return {"objects": max(_of_objects(ours, theirs, image) for image in range(len(ours["valid"])))}
    return {name: _of_arrays(each, theirs[name]) for name, each in ours.items()}


def _of_arrays(ours: np.ndarray, theirs: np.ndarray) -> float:
    if not _is_floating(ours):
        return float((ours != theirs).mean())
    ours, theirs = ours.astype(np.float64), theirs.astype(np.float64)
    far = np.abs(ours - theirs).max()
    return float(far / (np.abs(ours).max() or 1)) if far else 0.0


def _of_objects(ours: Mapping[str, np.ndarray], theirs: Mapping[str, np.ndarray], image: int) -> float:
    """Return the distance of the objects of one image: the largest of any to its nearest of the same class."""
    ours, theirs = (
        {name: each[image][given["valid"][image]] for name, each in given.items()} for given in (ours, theirs)
    )
    count = len(ours["valid"])
    if count != len(theirs["valid"]):
        return np.inf
    apart = np.zeros((count, count))
    for name in ours.keys() - {"valid"}:
        one, other = (given[name].reshape(count, 1, -1) for given in (ours, theirs))
        if _is_floating(one):
            far = np.abs(one.astype(np.float64) - other.swapaxes(0, 1)).max(-1) / max(np.abs(one).max(initial=0), 1e-30)
        else:
            far = np.where((one != other.swapaxes(0, 1)).any(-1), np.inf, 0)
        apart = np.maximum(apart, far)
    return float(max(apart.min(1).max(), apart.min(0).max())) if count else 0.0


def _is_floating(array: np.ndarray) -> bool:
    return array.dtype.kind not in "biu"  # bfloat16 is of kind "V"
