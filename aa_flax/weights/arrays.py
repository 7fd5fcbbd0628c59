"""Reading and replacing a network's arrays as one flat dictionary."""

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx

from aa_flax.layers.running_count import TrainingStat


def flat_arrays(model: nnx.Module) -> dict[str, Any]:
    """Return the array of every parameter and batch statistic by dotted path; shapes where the model has only those.

    Statistics that only training reads are left out.
    """
    return {".".join(map(str, path)): leaf.get_value() for path, leaf in _leaves(model)}


def fill_arrays(model: nnx.Module, values: Mapping[str, np.ndarray]) -> None:
    """Replace a network's arrays by those of `values`, by dotted path, each converted to the dtype of the old one."""
    tree: dict[Any, Any] = {}
    for path, leaf in _leaves(model):
        name = ".".join(map(str, path))
        if name in values:
            *parents, last = path  # numbers in lists of modules, where the dotted path has their digits
            branch = tree
            for parent in parents:
                branch = branch.setdefault(parent, {})
            branch[last] = jnp.asarray(values[name], leaf.get_value().dtype)
    nnx.update(model, tree)


def _leaves(model: nnx.Module) -> Any:
    return nnx.to_flat_state(nnx.state(model, nnx.All((nnx.Param, nnx.BatchStat), nnx.Not(TrainingStat))))
