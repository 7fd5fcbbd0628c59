"""Reading and replacing a network's arrays as one flat dictionary."""

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx


def flat_arrays(model: nnx.Module) -> dict[str, Any]:
    """Return the array of every parameter and batch statistic by dotted path; shapes where the model has only those."""
    state = nnx.state(model, (nnx.Param, nnx.BatchStat))
    return {".".join(map(str, path)): leaf.get_value() for path, leaf in nnx.to_flat_state(state)}


def fill_arrays(model: nnx.Module, values: Mapping[str, np.ndarray]) -> None:
    """Replace a network's arrays by those of `values`, by dotted path, each converted to the dtype of the old one."""
    tree: dict[str, Any] = {}
    before = flat_arrays(model)
    for path, value in values.items():
        *parents, name = path.split(".")
        branch = tree
        for parent in parents:
            branch = branch.setdefault(parent, {})
        branch[name] = jnp.asarray(value, before[path].dtype)
    nnx.update(model, tree)
