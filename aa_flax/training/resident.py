"""A training split kept on the devices: the host sends indices, and the step takes the images."""

from typing import Any

import jax
import numpy as np
from jaxtyping import Array

from aa_flax.alive import reporting
from aa_flax.data.source import Source
from aa_flax.training.sharding import Layout


def resident(source: Source, layout: Layout) -> dict[str, Any]:
    """Copy all examples of a source to every device; return {"pool": {"image": uint8 [n, h, w, c], ...}}.

    The pool, which becomes a part of every batch, also has the targets by name, each [n, ...].
    """
    examples = list(reporting(source))
    pool = {name: np.stack([example[name] for example in examples]) for name in ("image", *source.target_shapes)}
    return {"pool": jax.tree.map(lambda array: layout.placed(array, layout.everywhere), pool)}


def taken(batch: dict[str, Any]) -> dict[str, Array]:
    """Return the batch with its images and targets, taken from the pool if it has one; for use inside a step."""
    if "pool" not in batch:
        return batch
    return {name: values[batch["index"]] for name, values in batch["pool"].items()}
