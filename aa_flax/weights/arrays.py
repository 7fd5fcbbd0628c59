"""A network's arrays as one flat dictionary, out of it and into it."""

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx


def flat_arrays(model: nnx.Module) -> dict[str, Any]:
    """Dotted path of every parameter and batch statistic to its array, or its shape where the model has shapes only."""
    state = nnx.state(model, (nnx.Param, nnx.BatchStat))
    return {".".join(map(str, path)): leaf.get_value() for path, leaf in nnx.to_flat_state(state)}


def fill_arrays(model: nnx.Module, values: Mapping[str, np.ndarray]) -> None:
    """Put arrays in place by dotted path, each in the dtype of what it replaces."""
    tree: dict[str, Any] = {}
    before = flat_arrays(model)
    for path, value in values.items():
        *parents, name = path.split(".")
        branch = tree
        for parent in parents:
            branch = branch.setdefault(parent, {})
        branch[name] = jnp.asarray(value, before[path].dtype)
    nnx.update(model, tree)
